"""How the core asks memory types, as alternatives: a file a proposal; `catalogue.py` has all."""
