"""The pager under simulation: the real core, driver, journal and recovery on the model kernel.

Come here for long random runs: clients that touch, drop, move, unmap and fork lazily filled memory,
a source that fails and is late, a kernel that refuses, and workers that are killed, all drawn from
one seed.  Small worlds whose every schedule is run are scenarios of `check.explore`.
"""
