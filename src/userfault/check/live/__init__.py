"""The running Linux, driven through agents: how a check makes a real process do what it says.

`kernel.py` is what a check holds.  It asks a host (`host.py`: this system; the lab has guests) for
agents (`agent/`), and talks with each over its link (`link.py`, in the formats of `wire.py`).
`steps/` says for each call of `kernel/calls.py` what the agent is asked, `sleeps.py` what a task
that sleeps waits for.
"""
