"""What is known of a worker that was killed, as data: its contexts, and the fill made last."""

from __future__ import annotations

import msgspec

from userfault.pager.core.segment import Segment


class ContextRecord(msgspec.Struct, frozen=True):
    """One context.  `number`: its own, never given to another.  `states`: the number of its states.

    Contexts with the same `states` share their pages.  `given_up`: the cause, if everything that
    was not filled was to be given up.  `left`: places from which mremap has moved pages, and which
    may show them still.
    """

    number: int
    states: int
    segments: tuple[Segment, ...]
    background: bool = False
    finished: bool = False
    given_up: str = ""
    left: tuple[Segment, ...] = ()


class Snapshot(msgspec.Struct, frozen=True):
    """All contexts, after `applied` events of the batch `batch`: to be replaced atomically."""

    batch: int
    applied: int
    contexts: tuple[ContextRecord, ...]


class FillRecord(msgspec.Struct, frozen=True):
    """The fill made last.  `page`: below zero for one that fills no page of ours.

    `done`: the field in which the kernel says how many bytes it filled, before it wakes anybody;
    below zero an errno.  `protect`: with protection against writes.
    """

    context: int
    kind: int
    page: int
    count: int
    done: int
    protect: bool = False
