"""What a step of a task read and wrote: noted where state is looked at and changed, when asked.

A *place* is a tuple whose first word is its kind: `("entry", 3, 0x7f0000000000)` is a page-table
entry of the address space that has number 3.  Three kinds of access are told apart, since what
commutes need not be tried in both orders:

* `reads`: looked at;
* `writes`: changed, or looked at and changed;
* `adds`: counted up or down without looking at the sum, or taken and given back together with
  others of its kind (a lock held for reading): two of them commute.

Nothing is noted unless `on` is set: code asks that first, so that it costs one look when off.  One
recorder serves all machines, since only one step runs at a time.

Beside the places there are `notes`: what was done, for rules that ask not how things are but what
somebody did (`userfault.model.invariants`).  The first word of a note says what it is.

Things have a `number` that depends on the task that made them and on how many it made before, and
on nothing that other tasks did: in two runs that differ by the order of independent steps a thing
has the same number.
"""

from __future__ import annotations

from typing import Any

Place = tuple[object, ...]
Note = tuple[Any, ...]


class Recorder:
    """The notes about the step that runs."""

    __slots__ = ("adds", "hook", "notes", "numbers", "on", "reads", "writes")

    def __init__(self) -> None:
        self.on = False
        self.numbers = 0  # the last number given away
        self.reads: set[Place] = set()
        self.writes: set[Place] = set()
        self.adds: set[Place] = set()
        self.notes: list[Note] = []
        self.hook = ""  # of which memory type a hook is running

    def number(self) -> int:
        """A number for a thing that is being made."""
        self.numbers += 1
        return self.numbers


RECORD = Recorder()
