"""Clients come and go: each with its process, its socket and its end, none at another's cost."""

from __future__ import annotations

import functools
import signal
import socket
import time
from collections.abc import Callable

from userfault.kernel.errors import PagerError
from userfault.linux.lifeline import LifeLine
from userfault.pager.core.segments import Segments
from userfault.pager.drivers.clients.book import Book
from userfault.pager.drivers.clients.client import Client
from userfault.pager.drivers.clients.client import Conversation as AnyConversation
from userfault.pager.drivers.clients.conversation import Conversation, ForAnother, Told
from userfault.pager.drivers.clients.interrupts import Interrupts
from userfault.pager.drivers.clients.reach import Reach
from userfault.pager.drivers.mappings.owner import Owner
from userfault.pager.drivers.mappings.served import Context, Served
from userfault.pager.drivers.record.records import ClientRecord, ServedRecord
from userfault.pager.drivers.serving.service import Service
from userfault.pager.drivers.wire.messages import Admit

Replace = Callable[[tuple[int, int], Told, float], None]

Speak = Callable[[Client, "Clients"], AnyConversation]  # begins a conversation

_FOR_ANOTHER = "for another"

_clock = time.monotonic


class Clients:
    """Adds clients to `book` and takes them out; `service` serves what they map.

    `replace`: hands over to another family, for a client and the serial of its request; at a time.
    `protocols`: what is spoken, by name; at first our own alone.
    """

    def __init__(self, book: Book, service: Service, replace: Replace) -> None:
        self.protocols: dict[str, Speak] = {"": Conversation, _FOR_ANOTHER: ForAnother}
        self.book = book
        self.service = service
        self._loop = service.loop
        self._replace = replace
        self._loop.look_at(Reach(book.clients))
        service.timed.beside(Interrupts(service))
        service.let_go = self._needs_nobody

    def add(
        self,
        channel: socket.socket,
        process: int,
        name: str = "",
        *,
        protocol: str = "",
        door: str = "",
    ) -> Client:
        """Serve a client: its requests come by `channel`, its process is behind pidfd `process`.

        `channel`: a Unix socket; for our own protocol of type SEQPACKET with SO_PASSCRED.  `name`:
        what lines about it on standard error begin with.  `door`: by which it came.  Both
        descriptors are the client's from here on.  Raises PagerError where it cannot be recorded;
        then they are the caller's still.
        """
        owner = Owner(self.book.person(), process, name)
        client = Client(owner, channel, protocol=protocol, door=door)
        self.book.add(client)
        self._begin(client)
        return client

    def again(self, record: ClientRecord) -> Client:
        """A client that another worker served; its mappings are still to come."""
        channel = socket.socket(fileno=record.channel)
        owner = Owner(record.number, record.process, record.name)
        client = Client(owner, channel, record.replaced, record.protocol, record.door)
        client.lifeline = LifeLine(*record.lifeline)
        client.joined = record.joined
        self.book.clients[client.number] = client
        self._begin(client)
        return client

    def mapped(self, record: ServedRecord, client: Client) -> Served:
        """A mapping of it as it was recorded.  Raises whatever keeps it from being taken up."""
        return Served.again(record, self.service.reads.threads, client.owner)

    def restore(self, client: Client, served: Served) -> None:
        """Serve a mapping of the record again."""
        client.mappings[served.number] = served
        self.service.begin(served)

    def join(self, client: Client, served: Served, fd: int, shown: Segments) -> None:
        """Serve a client whose memory, behind userfaultfd `fd`, is what another one has mapped.

        It is ended if nobody is left to serve it.  Raises PagerError when it cannot be recorded.
        """
        client.lifeline = LifeLine.armed(signal.SIGKILL, whom=client.owner.pid)
        client.changed()
        self.book.changed(client)
        context = self.service.joined(served, fd, shown)
        client.joined = context.number
        client.changed()
        self.service.commit(served)
        self.book.changed(client)
        self.service.perform(context)

    def _needs_nobody(self, context: Context) -> None:
        """Its memory is in and unregistered: who joined with it is not to end with us any more."""
        for client in self.book.clients.values():
            if client.joined == context.number:
                client.lifeline.disarm()

    def greet(self) -> None:
        """Tell each client that a worker serves."""
        for client in list(self.book.clients.values()):
            if client.conversation is not None:
                client.conversation.resumed()

    def close(self) -> None:
        """Let go of every client that is left, and of what this worker opened for them."""
        for client in list(self.book.clients.values()):
            self.hang_up(client, quit_now=True)

    def take(self, client: Client, served: Served) -> None:
        """Serve a new mapping.  Raises PagerError when it cannot be recorded."""
        self.book.take(client, served)
        self.service.begin(served)

    def admit(self, client: Client, request: Admit, fds: list[int]) -> None:
        """Serve another process for a client; once for each request, however often it comes."""
        door = f"{client.number}.{request.number}"
        if any(each.door == door for each in self.book.clients.values()):
            return
        channel = socket.socket(fileno=fds[0])
        try:
            self.add(channel, fds[1], request.name, protocol=_FOR_ANOTHER, door=door)
        except PagerError:
            channel.detach()
            raise
        fds.clear()

    def replace(self, client: Client, serial: int, told: Told) -> None:
        """Hand over to another family for a client's request; `told` hears how it ended."""
        self._replace((client.number, serial), told, _clock())

    def hang_up(self, client: Client, *, quit_now: bool) -> None:
        """A client asked us to end, or closed its end: it is served on while it still lives."""
        self._loop.forget(client.channel.fileno())
        client.open = False
        if quit_now or not client.mappings:  # nobody asks when it ends
            self._loop.forget(client.owner.process)
        if quit_now:
            for served in list(client.mappings.values()):
                self.service.drop(served)
        self.book.leave_if_over(client)

    def _begin(self, client: Client) -> None:
        conversation = client.conversation = self.protocols[client.protocol](client, self)
        self._loop.watch(client.channel.fileno(), conversation.request, edge=conversation.edge)
        self._loop.watch(client.owner.process, functools.partial(self._ended, client))
        self._look_for_threads()

    def _ended(self, client: Client) -> None:
        """It is dead: only children that it forked may still need us."""
        self._loop.forget(client.owner.process)
        self._loop.forget(client.channel.fileno())
        client.owner.alive = False
        client.open = False
        for served in list(client.mappings.values()):
            self.service.context_ended(served.main)
        self.book.leave_if_over(client)
        self._look_for_threads()

    def _look_for_threads(self) -> None:
        owners = [client.owner for client in self.book.clients.values()]
        self._loop.placement.knows(threads=any(each.alive and each.has_our_ids for each in owners))
