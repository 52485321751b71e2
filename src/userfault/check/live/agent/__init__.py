"""The agent: a small C program that is the live process of a check."""
