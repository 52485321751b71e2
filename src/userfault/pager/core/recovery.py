"""A worker was killed at any instruction: rebuild its cores from what outlived it.

What outlives a worker is in shared memory: one byte a page, written in place; the batch of messages
that was read last; the `FillRecord` of the fill that was made last; and one `Snapshot`, replaced as
a whole.  Everything else (reads under way, fills put aside, pauses, failures counted, actions not
performed) dies, and needs no record: its pages are FILLING, its waiters are asleep, and both are
put right by asking every waiter to fault again.

What a driver does beforehand, so that this is enough (the reasons are in docs/pager.md, "When a
worker is killed"):

* it names a batch (number and context) before it reads it, over a ring that holds no message;
* it sets the result in the fill's record to 0, then the other fields, then makes the fill;
* it takes a snapshot after every UNMAP, REMAP and FORK, and after `complete()` and `give_up()`,
  before it performs what the core asks for; and before it carries out a Finish, and before it
  closes a context.

What a successor does, in this order: `rebuild`, `settle`, apply `unapplied` events (a snapshot
after each as ever), `resume`.  It may be killed too; the next one begins anew.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from typing import TypeVar

from userfault.pager.core.actions import POISON, UNPROTECT, WakeAll
from userfault.pager.core.core import MappingCore
from userfault.pager.core.plan import Plan
from userfault.pager.core.recorded import ContextRecord, FillRecord, Snapshot
from userfault.pager.core.segments import Segments
from userfault.pager.core.states import (
    CACHED,
    CLEAN,
    FILLING,
    MISSING,
    POISONED,
    PRESENT,
    SPILLED,
    Pages,
)

Event = TypeVar("Event")


def record(core: MappingCore, number: int, states: int) -> ContextRecord:
    """What has to be known of `core` to rebuild it."""
    return ContextRecord(
        number=number,
        states=states,
        segments=tuple(core.segments),
        background=core.planner.background,
        finished=core.finished,
        given_up=core.given_up,
        left=tuple(core.ledger.left),
    )


def rebuild(
    records: Iterable[ContextRecord],
    plan_of: Callable[[ContextRecord], Plan],
    pages_of: Callable[[ContextRecord], Pages],
) -> dict[int, MappingCore]:
    """The cores by the number of their context.

    `pages_of` is asked once for each number of states: contexts that shared them share them again.
    """
    cores: dict[int, MappingCore] = {}
    firsts: dict[int, MappingCore] = {}  # by the number of their states
    for each in records:
        first = firsts.get(each.states)
        core = _rebuilt(each, plan_of(each), first.pages if first else pages_of(each))
        if first:
            core.ledger.join(first.ledger.peers)
            core.keep_to(first.residency)
            core.join(first)
        firsts.setdefault(each.states, core)
        cores[each.number] = core
    return cores


def _rebuilt(each: ContextRecord, plan: Plan, pages: Pages) -> MappingCore:
    core = MappingCore(plan, pages, Segments.of(each.segments, plan.shift))
    core.planner.background = each.background
    core.ledger.finished, core.ledger.given_up = each.finished, each.given_up
    core.ledger.left = Segments.of(each.left, plan.shift)
    return core


def settle(core: MappingCore, fill: FillRecord) -> None:
    """The fill made last, in the context of `core`: what the kernel did is complete.

    Whether the dead worker recorded it is not known and does not matter: a page that was filled
    becomes unsettled again by being taken out of memory only, and before that the record of the
    fill is made void.  So the second time nothing is found to do.
    """
    done = fill.done >> core.plan.shift
    if done <= 0 or fill.page < 0:
        return
    if fill.kind == UNPROTECT:
        return
    for state in (MISSING, FILLING, CACHED, SPILLED):
        clean = CLEAN if fill.protect and state == FILLING else PRESENT
        for page, count in core.pages.runs(fill.page, done, state):
            core.pages.move(page, count, POISONED if fill.kind == POISON else clean)


def unapplied(snapshot: Snapshot, batch: int, events: Sequence[Event]) -> list[tuple[int, Event]]:
    """Which `events` of the batch read last are to be applied, and how many come before each.

    Those that no snapshot has: REMOVEs among them were perhaps applied, and may be again.  The
    faults of the batch are not wanted: who waits is asked to fault again.
    """
    applied = snapshot.applied if snapshot.batch == batch else 0
    return list(enumerate(events))[applied:]


def resume(cores: Collection[MappingCore]) -> None:
    """All events are applied: fills under way are lost, and every waiter faults again.

    What was decided and not carried out is decided again: the finish, giving up.
    """
    for core in cores:
        core.pages.revert(0, core.pages.count)
    for core in {core.residency: core for core in cores if core.plan.evicts}.values():
        core.residency.resume(core.ledger)
    for core in cores:
        core.out.append(WakeAll())
    for core in cores:
        core.ledger.finish_if_settled()
        if core.given_up and core.pages.unsettled:
            background = core.planner.background  # `complete()` may have been asked for since
            core.give_up(core.given_up, "")
            core.planner.background = background
