"""Residency budgets: what is really in memory, and what there is room for now."""

from __future__ import annotations

import math
import os
from typing import Protocol

from userfault.linux.room import room_of
from userfault.pager.core.core import MappingCore
from userfault.pager.core.policy import LEAST_RESIDENT
from userfault.pager.core.states import PRESENT, SPILLED, SPILLING
from userfault.pager.drivers.mappings.served import Context, Served
from userfault.pager.drivers.wire.messages import Resident

_EVERY_S = 0.1
_IDLE_S = 1.0


class Acting(Protocol):
    """Whoever serves."""

    def perform(self, context: Context) -> None:
        """Everything that the core of `context` asks for."""


class Budgets:
    """The mappings that have one.  Looked at now and then (`Look`), because nobody tells."""

    def __init__(self, acting: Acting) -> None:
        self._acting = acting
        self._held: dict[Served, None] = {}
        self._at = 0.0

    def add(self, served: Served) -> None:
        """From now on, if it has one."""
        if served.plan.resident and not served.lost:
            self._held[served] = None

    def __contains__(self, served: object) -> bool:
        return served in self._held

    def discard(self, served: Served) -> None:
        """No more."""
        self._held.pop(served, None)

    def look(self, now: float) -> float:
        """Look, if it is due: how many seconds to sleep at most if nothing happens."""
        if not self._held:
            return math.inf
        if now >= self._at:
            self._at = now + _EVERY_S
            follow = sum(served.attach.follows for served in self._held)
            for served in list(self._held):
                self._measure(served, follow)
        return _IDLE_S

    def _measure(self, served: Served, follow: int) -> None:
        context = served.main
        residency, pages = context.core.residency, context.core.pages
        if served.plan.evicts:
            taken = os.fstat(served.memory).st_blocks * 512 // served.page_size
            residency.hidden = max(taken - pages.held, 0)
        if served.attach.follows:
            room = room_of(served.owner.pid) if served.owner.alive else None
            if room is not None:
                share = room.spare // follow + (pages.held + residency.hidden) * served.page_size
                residency.limit = max(share, LEAST_RESIDENT) // served.page_size
        if not context.closed:
            residency.make_room(context.core.ledger)
            self._acting.perform(context)


def resident(core: MappingCore) -> Resident | None:
    """How a mapping stands with its budget; None where it has none."""
    if not core.plan.resident:
        return None
    pages, residency, size = core.pages, core.residency, core.plan.page_size
    states = bytes(pages.states[0 : pages.count])
    written = sum(states.count(bytes([state])) for state in (PRESENT, SPILLING))
    return Resident(
        budget=residency.limit * size,
        resident=(pages.held + residency.hidden) * size,
        written=written * size,
        spilled=states.count(bytes([SPILLED])) * size,
        note=_note(core, written),
    )


def _note(core: MappingCore, written: int) -> str:
    """What is to be known about it, beside numbers."""
    residency = core.residency
    if residency.stopped:
        return f"the budget is not kept any more: {residency.stopped}"
    if residency.spill_failed:
        return f"what was written stays in memory: {residency.spill_failed}"
    if written > residency.limit and core.plan.evicts:
        return "more was written than may be in memory, and it stays there (see Policy(spill=))"
    if residency.crowded:
        return (
            "the budget is smaller than what is used: most of what was filled of late had been"
            " taken out a short time before"
        )
    return ""
