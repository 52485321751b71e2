"""A new worker goes on where a killed one stopped.

The order matters (docs/pager.md, "When a worker is killed"): the fill under way is settled, the
events that no record has are applied, what else was under way is forgotten, and every waiter is
woken, so that it faults again and is decided anew.
"""

from __future__ import annotations

import msgspec

from userfault.kernel.events import PageFault
from userfault.linux.uffd import decode
from userfault.pager.core import recovery
from userfault.pager.core.recorded import Snapshot
from userfault.pager.drivers.clients.client import Client
from userfault.pager.drivers.clients.clients import Clients
from userfault.pager.drivers.mappings.served import Context, Served
from userfault.pager.drivers.record import records
from userfault.pager.drivers.record.journal import Journal, Word
from userfault.pager.drivers.serving import restored
from userfault.pager.drivers.serving.losing import why_lost
from userfault.pager.drivers.serving.service import Service
from userfault.source.spec import ZeroSpec


def take_over(clients: Clients, family: records.FamilyRecord, people: list[records.Person]) -> None:
    """Serve what the journal's record names: `family`, with `people` in it."""
    service = clients.service
    contexts: dict[int, Context] = {}
    for person in people:
        client = clients.again(person.client)
        for mapping in person.mappings:
            served = _again(clients, mapping, client)
            clients.restore(client, served)
            contexts.update((each.number, each) for each in served.contexts if not each.closed)
    for context in contexts.values():  # now that all are here: whoever joined may come later
        if context.core.finished:
            service.let_go(context)
    _settle(service, contexts)
    _replay(service, contexts, family)
    for client in list(clients.book.clients.values()):
        for served in list(client.mappings.values()):
            with service.costs(served):
                mine = [each for each in contexts.values() if each.served is served]
                recovery.resume([context.core for context in mine])
                for context in mine:
                    service.perform(context)
                for context in mine:  # it was killed while it let go of them
                    if served.attach.restored and context.core.finished and not context.closed:
                        restored.let_go(service, context)


def _again(clients: Clients, mapping: records.ServedRecord, client: Client) -> Served:
    """Serve it again, or, where that fails, what is left of it."""
    try:
        return clients.mapped(mapping, client)
    except Exception as error:
        nothing = ZeroSpec(mapping.attach.source.length)  # is what can be taken up for certain
        attach = msgspec.structs.replace(mapping.attach, source=nothing, copy=0)
        lost = why_lost(client.owner, error)
        left = msgspec.structs.replace(mapping, attach=attach, lost=lost, failed=0)
        return clients.mapped(left, client)


def _settle(service: Service, contexts: dict[int, Context]) -> None:
    """The fill that was under way when the worker was killed: what the kernel did of it is done."""
    for fill in (service.journal.last_fill(), *service.journal.many.last()):
        if fill.context in contexts:
            with service.costs(contexts[fill.context].served):
                recovery.settle(contexts[fill.context].core, fill)


def _replay(service: Service, contexts: dict[int, Context], family: records.FamilyRecord) -> None:
    """Events that were read and are in no record.  Faults need none: who waits is woken."""
    journal: Journal = service.journal
    messages = journal.unfinished()
    context = contexts.get(journal.words[Word.CONTEXT])
    if context is not None:
        events = [event for event in map(decode, messages) if not isinstance(event, PageFault)]
        snapshot = Snapshot(family.batch, family.applied, ())
        left = recovery.unapplied(snapshot, journal.head, events)
        journal.applied = len(events) - len(left)
        with service.costs(context.served):
            service.intake.events(context, left)
    journal.batch_done(sum(map(len, messages)))
