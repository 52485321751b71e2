"""Each call of `kernel/calls.py` as requests to the agent.

A call is a generator: it yields steps, is sent the reply of each, and returns the Result.  Most
are one system call; some (a file on a fresh tmpfs, giving up a capability) are several.  Which
function makes which call is in `table.py`; the functions stand by subject, and `requests.py` is
what all of them are put together of.
"""
