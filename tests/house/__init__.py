"""The house itself: which way its rooms look, and how large they are."""
