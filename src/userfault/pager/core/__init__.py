"""The decision core of the pager: events and results in, actions out, no I/O.

* `states`: one byte a page, and the legal moves;
* `segments`: which address shows which page, through mremap and munmap;
* `window`: how many pages to fill around a fault;
* `watch`: faults that wait, and since when;
* `policy`: the knobs;
* `actions`: what a driver is asked to do;
* `core`: `MappingCore`, the decisions, above four floors: `filling` (pages settled, waiters
  woken), `reading` (the source, away from the fault path), `refusals` (what the kernel refuses),
  `overdue` (faults that have waited for too long);
* `recovery`: cores rebuilt after their process was killed;

No sleep, clock, thread, socket or randomness lives here: times are arguments.
"""
