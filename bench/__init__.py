"""Benchmarks: our pager and a page-fault handler in C, in one run, side by side.

Run from the root of the repository: `python -m bench all`, or one of `latency`, `bulk`,
`patterns`, `start`, ... (`store` is beside `zstd`, too).  What is fair about it:

* The client is the same program for both sides (`c/client.c`, called by ctypes without the GIL);
  only the process that serves differs: our pager, or `c/handler.c`, compiled in the run.
* The sides take turns; the order of turns changes from round to round; the first round is not
  counted.  Ratios are made within a round, and the median of them is told.
* Memory is warm: this machine's host may hand out memory on first touch, many times slower.
* Both sides hash what they read.  Different bytes end the run.
"""
