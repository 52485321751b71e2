"""Sessions drawn from a seed, for every protocol of the daemon: nearly right, and less so.

Each is played by a process of its own, since the daemon ends whom it has to refuse.
"""
