"""Mistakes to plant in the driver and in what a successor does, to see that simulation finds them.

Those of the core are `pager_core.planted`: here are what only a run of the real driver shows.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import pytest

from userfault.kernel.events import PageFault
from userfault.linux.uffd import decode
from userfault.pager.core import recovery
from userfault.pager.drivers.clients.book import Book
from userfault.pager.drivers.mappings.served import Context
from userfault.pager.drivers.record.journal import MESSAGE, Journal, Word
from userfault.pager.drivers.serving.deferring import Deferring
from userfault.pager.drivers.serving.intake import Intake
from userfault.pager.drivers.serving.service import Service


class Mistake(NamedTuple):
    """What somebody could do in good faith, and within how many seeds it must be found.

    `scenario`: or else by the explorer, in which scenario.
    """

    name: str
    plant: Callable[[pytest.MonkeyPatch], None]
    seeds: int = 0
    scenario: str = ""


def _faults_first(patch: pytest.MonkeyPatch) -> None:
    """Messages are applied in the order in which they were read."""

    def batch(self: Intake, context: Context, start: int, size: int) -> None:
        applied = 0
        for at in range(start, start + size, MESSAGE):
            event = decode(self._journal.ring, at)
            if isinstance(event, PageFault):
                context.core.fault(event.address, event.flags)
                self._service.perform(context)
            else:
                self.events(context, [(applied, event)])
                applied += 1

    patch.setattr(Intake, "batch", batch)


def _no_second_try(patch: pytest.MonkeyPatch) -> None:
    """What met EAGAIN is tried again when an event comes, and at no other time."""
    patch.setattr(Deferring, "next_time", lambda _: None)


def _siblings_forgotten(patch: pytest.MonkeyPatch) -> None:
    """What a core asks of a mapping that shares its pages is not done."""
    patch.setattr(Service, "_perform_siblings", lambda *_: None)


def _events_are_not_recorded(patch: pytest.MonkeyPatch) -> None:
    """The record says what was served in the beginning."""
    patch.setattr(Book, "commit", lambda *_: True)


def _batch_done_first(patch: pytest.MonkeyPatch) -> None:
    """A batch counts as done when it was read, before it is applied."""
    batch = Intake.batch

    def planted(self: Intake, context: Context, start: int, size: int) -> None:
        words = self._journal.words
        words[Word.HEAD] += size // MESSAGE
        batch(self, context, start, size)
        words[Word.HEAD] -= size // MESSAGE

    patch.setattr(Intake, "batch", planted)


def _result_stays(patch: pytest.MonkeyPatch) -> None:
    """The record of a fill is written while the result of the one before is there."""

    def of(name: str) -> None:
        begin = getattr(Journal, name)

        def planted(self: Any, *arguments: int) -> None:
            done = self._results[0]
            begin(self, *arguments)
            self._results[0] = done

        patch.setattr(Journal, name, planted)

    of("copying")
    of("filling")


def _fill_forgotten(patch: pytest.MonkeyPatch) -> None:
    """What the kernel filled for a worker that was killed then is filled again."""
    patch.setattr(recovery, "settle", lambda _core, _fill: None)


def _events_forgotten(patch: pytest.MonkeyPatch) -> None:
    """Events that were read by a worker that was killed then are lost."""
    patch.setattr(recovery, "unapplied", lambda _snapshot, _batch, _events: [])


def _events_twice(patch: pytest.MonkeyPatch) -> None:
    """All events of the last batch are applied, also those that the record has."""
    patch.setattr(recovery, "unapplied", lambda _snapshot, _batch, events: list(enumerate(events)))


def _nobody_is_woken(patch: pytest.MonkeyPatch) -> None:
    """A successor waits for faults, but those that were read come no second time."""

    def planted(cores: Any) -> None:
        for core in cores:
            core.pages.revert(0, core.pages.count)

    patch.setattr(recovery, "resume", planted)


MISTAKES = (
    Mistake("no second try after EAGAIN", _no_second_try, seeds=100),
    Mistake("siblings are forgotten", _siblings_forgotten, seeds=100),
    Mistake("events are not recorded", _events_are_not_recorded, seeds=100),
    Mistake("a batch is done when it was read", _batch_done_first, seeds=600),
    Mistake("the result of the last fill stays", _result_stays, seeds=300),
    Mistake("events of the last batch are forgotten", _events_forgotten, seeds=500),
    Mistake("a successor wakes nobody", _nobody_is_woken, seeds=100),
    Mistake("faults before events", _faults_first, scenario="pager-fault-against-drop"),
    Mistake(
        "the fill under way is forgotten", _fill_forgotten, scenario="pager-write-against-kill"
    ),
    Mistake("events are applied twice", _events_twice, scenario="pager-mremap-against-kill"),
    Mistake("nobody is woken", _nobody_is_woken, scenario="pager-fault-against-kill"),
    Mistake("events are forgotten", _events_forgotten, scenario="pager-drop-against-kill"),
)
