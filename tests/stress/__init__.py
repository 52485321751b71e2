"""The stress test: threads that touch, drop, move and fork while the pager's processes are killed.

`python -m tests.stress`, or `make stress`.
"""
