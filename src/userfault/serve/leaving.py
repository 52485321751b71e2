"""Leaving clients that live on: each is filled as a whole, and then needs nobody.

A daemon must not just end: a client that keeps a duplicate of its userfaultfd would wait for ever
at its next page, and one that does not would read zeros.  So everything is filled, its memory is
unregistered (`Service._finish`), and when nothing is left to be read of its userfaultfd, the daemon
lets go of it.
"""

from __future__ import annotations

import select
import time
from collections.abc import Callable

from userfault.pager.drivers.clients.client import Client
from userfault.pager.drivers.clients.clients import Clients
from userfault.pager.drivers.mappings.served import Context
from userfault.serve.cloud_hypervisor import FaultTalk
from userfault.serve.criu import CriuTalk
from userfault.serve.secret import Asked

_LOOK_S = 0.1
# A thread may have raised an event just before its range was unregistered: it is read, and the
# thread goes on.  Another one cannot come after this long.
_QUIET_S = 1.0


class Leaving:
    """Of those of `clients` that are `served`."""

    def __init__(self, clients: Clients, served: Callable[[Client], bool]) -> None:
        self._clients = clients
        self._served = served
        self._begun = False
        self._look_at = 0.0
        self._finished: dict[int, float] = {}  # since when, by the client's number

    def begin(self) -> None:
        """From now on."""
        if self._begun:
            return
        self._begun = True
        self._clients.service.loop.timers[self] = None
        for client in list(self._clients.book.clients.values()):
            if self._served(client):
                self._complete(client)

    def came(self, client: Client) -> None:
        """It had connected before, and is served from now on."""
        if self._begun:
            self._complete(client)

    def _complete(self, client: Client) -> None:
        for served in list(client.mappings.values()):
            if not served.main.closed:
                with self._clients.service.costs(served):
                    served.main.core.complete()
                    self._clients.service.commit(served)
                    self._clients.service.perform(served.main)

    def next_time(self) -> float | None:
        """When to look again."""
        return self._look_at if self._begun else None

    def tick(self, now: float) -> None:
        """Let go of those that need nobody."""
        if not self._begun or now < self._look_at:
            return
        self._look_at = time.monotonic() + _LOOK_S
        for client in list(self._clients.book.clients.values()):
            if self._served(client) and self._needs_nobody(client, now):
                self._clients.hang_up(client, quit_now=True)

    def _needs_nobody(self, client: Client, now: float) -> bool:
        talk = client.conversation
        if isinstance(talk, FaultTalk | CriuTalk | Asked) and talk.needed:
            return False  # it asks for all that it lacks, or tells of all, by itself, and then goes
        contexts = [each for each in self._contexts(client) if not each.closed]
        if not all(each.core.finished for each in contexts):
            self._finished.pop(client.number, None)
            return False
        poll = select.poll()
        for each in contexts:
            poll.register(each.fd, select.POLLIN)
        since = self._finished.setdefault(client.number, now)
        return now > since + _QUIET_S and not poll.poll(0)

    def _contexts(self, client: Client) -> list[Context]:
        """Its own with those of its children and of who joined; or what it joined as a whole."""
        served = list(client.mappings.values())
        if client.joined:
            served = [
                each
                for other in self._clients.book.clients.values()
                for each in other.mappings.values()
                if any(context.number == client.joined for context in each.contexts)
            ]
        return [context for each in served for context in each.contexts]
