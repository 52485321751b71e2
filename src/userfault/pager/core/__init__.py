"""The decision core of the pager: events and results in, actions out, no I/O.

* `states`: one byte a page, and the legal moves;
* `segments`: which address shows which page, through mremap and munmap;
* `policy`: the knobs;
* `actions`: what a driver is asked to do;
* `core`: `MappingCore`, which routes what comes in to its parts:
  `ledger` (states, addresses, what is asked of the driver, who is woken),
  `reads` (of the source, away from the fault path), with `pauses`,
  `refusals` (what an errno means),
  `planner` (which pages next, and why; with `window` and `advance`),
  `overdue` (faults that have waited for too long; with `watch` and `awaited`);
* `recovery`: cores rebuilt after their process was killed;

No sleep, clock, thread, socket or randomness lives here: times are arguments.
"""
