"""Deliberate errors in the model, and whether the checks notice them: `make mutants`."""
