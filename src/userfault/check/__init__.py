"""Checks: what a kernel promises, as statements that run on any kernel.

`steps.py`, `link.py`, `live.py`, `agent/`: the running Linux behind the protocols of
`kernel/calls.py`.  `statement.py`, `thread.py`, `uffd.py`, `run.py`, `statements/`: the
statements, what they are written in, and how they are run.  `differential/`: random programs.
"""
