"""`demo`: a live process is captured, restored lazily into each memory type, and compared."""
