"""A new worker goes on where a killed one stopped.

The order matters (docs/pager.md, "When a worker is killed"): the fill under way is settled, the
events that no record has are applied, what else was under way is forgotten, and every waiter is
woken, so that it faults again and is decided anew.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from userfault.kernel.events import PageFault
from userfault.linux.uffd import decode
from userfault.pager.core import recovery
from userfault.pager.core.recorded import Snapshot
from userfault.pager.drivers.mappings.served import Context, Served
from userfault.pager.drivers.record import records
from userfault.pager.drivers.record.journal import Journal, Word
from userfault.pager.drivers.serving.losing import why_lost
from userfault.source.spec import ZeroSpec

if TYPE_CHECKING:
    from userfault.pager.drivers.serving.live import LiveDriver


def take_over(
    driver: LiveDriver,
    journal: Journal,
    family: records.FamilyRecord,
    mappings: list[records.ServedRecord],
) -> None:
    """Make `driver` serve what the journal's record names: `family`, with `mappings` in it."""
    for mapping in mappings:
        driver.restore(_again(mapping, driver.bell))
    contexts = {
        context.number: context
        for served in driver.served.values()
        for context in served.contexts
        if not context.closed
    }
    _settle(driver, contexts, journal)
    _replay(driver, contexts, journal, family)
    for served in list(driver.served.values()):
        with driver.costs(served):
            mine = [each for each in contexts.values() if each.served is served]
            recovery.resume([context.core for context in mine])
            for context in mine:
                driver.perform(context)


def _again(mapping: records.ServedRecord, bell: int) -> Served:
    """Serve it again, or, where that fails, what is left of it."""
    try:
        return Served.again(mapping, bell)
    except Exception as error:
        nothing = ZeroSpec(mapping.attach.source.length)  # is what can be taken up for certain
        attach = msgspec.structs.replace(mapping.attach, source=nothing)
        return Served.again(
            msgspec.structs.replace(mapping, attach=attach, lost=why_lost(error), failed=0), bell
        )


def _settle(driver: LiveDriver, contexts: dict[int, Context], journal: Journal) -> None:
    """The fill that was under way when the worker was killed: what the kernel did of it is done."""
    fill = journal.last_fill()
    if fill.context in contexts:
        with driver.costs(contexts[fill.context].served):
            recovery.settle(contexts[fill.context].core, fill)


def _replay(
    driver: LiveDriver,
    contexts: dict[int, Context],
    journal: Journal,
    family: records.FamilyRecord,
) -> None:
    """Events that were read and are in no record.  Faults need none: who waits is woken."""
    messages = journal.unfinished()
    context = contexts.get(journal.words[Word.CONTEXT])
    if context is not None:
        events = [event for event in map(decode, messages) if not isinstance(event, PageFault)]
        snapshot = Snapshot(family.batch, family.applied, ())
        left = recovery.unapplied(snapshot, journal.head, events)
        journal.applied = len(events) - len(left)
        with driver.costs(context.served):
            for before, event in left:
                driver.event(context, event, before)
    journal.batch_done(sum(map(len, messages)))
