"""An error of ours costs one mapping: the rest of the pager serves on.

The mapping gets a core that answers every fault with poison (`core.lost`), its client is told, and
the record says so too: a successor does not try again.
"""

from __future__ import annotations

from typing import Protocol

from userfault.kernel.events import Fork
from userfault.linux.uffd import LiveUserfaultfd, decode
from userfault.pager.core.actions import WakeAll
from userfault.pager.drivers.mappings.owner import Owner
from userfault.pager.drivers.mappings.served import Context, Served
from userfault.pager.drivers.processes.texts import formatted
from userfault.pager.drivers.record.journal import Journal
from userfault.source.functions import told

OUR_ERROR = "an error in the pager"


class Losing(Protocol):
    """Whoever serves."""

    def let_rest(self, served: Served) -> None:
        """Nothing is under way for a mapping any more: no reads, timers, background work."""

    def forked(self, context: Context, event: Fork[LiveUserfaultfd]) -> None:
        """Serve a child."""

    def commit(self, changed: Served) -> bool:
        """Record what is served, `changed` anew."""

    def perform(self, context: Context) -> None:
        """Do what the core asks for."""


def why_lost(owner: Owner, error: Exception) -> str:
    """What the client is told.  The traceback goes to standard error."""
    owner.say(f"{OUR_ERROR}; the mapping is given up: {formatted(error)[-2500:]}")
    return f"{OUR_ERROR}: {told(error)}"


def lose(service: Losing, journal: Journal, served: Served, error: Exception) -> None:
    """Give up a mapping in whose service `error` was raised.  (A second time is no mapping's.)"""
    if served.lost:
        raise error
    service.let_rest(served)
    served.lose(why_lost(served.owner, error))
    # Of the batch that was being applied a child may be left: its memory is lost too.
    unfinished = journal.unfinished()
    known = {context.fd for context in served.contexts}
    for event in map(decode, unfinished):
        if isinstance(event, Fork) and event.userfaultfd.fileno() not in known:
            service.forked(served.main, event)
    service.commit(served)
    journal.batch_done(sum(map(len, unfinished)))
    for context in served.contexts:
        context.core.out.append(WakeAll())
        service.perform(context)
    served.tell()
