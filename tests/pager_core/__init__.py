"""The pager's decision core: unit tests, and a simulated kernel and client around it."""
