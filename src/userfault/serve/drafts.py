"""Clients that speak a draft: `wire/drafts.py` says which there are.

What they have in common: a handshake with regions and a userfaultfd, then perhaps more messages,
some with an answer.  Messages are answered once, whoever is killed (`exchange.py`); a handshake is
taken out of the socket once the mapping is recorded.
"""

from __future__ import annotations

import os
import time
import traceback
from typing import Protocol

from userfault.kernel.errors import KernelError, PagerError, UserfaultError
from userfault.kernel.memtypes import BASE_PAGE
from userfault.linux import registered
from userfault.linux.refused import cause_of
from userfault.pager.drivers.clients.client import Client
from userfault.pager.drivers.clients.clients import Clients
from userfault.serve import asked, attaching
from userfault.serve.doorkeeper import Doorkeeper
from userfault.serve.exchange import EndedError, Exchange
from userfault.serve.files import Files
from userfault.serve.peers import RefusedError
from userfault.wire import drafts as wire
from userfault.wire.drafts import Form, Message, Word
from userfault.wire.regions import Region, checked

_FORMS = [None, *Form]  # by what is noted of a conversation
_GREETED = 0x80


class Host(Doorkeeper, Protocol):
    """The daemon."""

    has_poison: bool
    files: Files


class DraftTalk:
    """What is said with one client."""

    edge = foreign = True

    def __init__(self, client: Client, clients: Clients, host: Host) -> None:
        self.client = client
        self._clients = clients
        self._host = host
        limits = host.limits
        self._sizes = wire.Sizes(limits.message_bytes)
        self._exchange: Exchange | None = None
        self.deadline = time.monotonic() + limits.handshake_s
        try:
            exchange = Exchange(client.channel, host.files.of(client.number), self._sizes)
            self._exchange = exchange
            if exchange.note:  # another worker has met it
                self._sizes.form = _FORMS[exchange.note & ~_GREETED]
        except (OSError, UserfaultError) as error:
            self._refuse(error)
        else:
            host.waiting.add(self)

    def request(self) -> None:
        """Something came, or its end."""
        if self._exchange is None and self.client.open:
            self._clients.hang_up(self.client, quit_now=not self.client.mappings)
        try:
            while self._exchange is not None and (data := self._exchange.next()) is not None:
                self._carry_out(data)
        except EndedError:
            self._ended()
        except Exception as error:  # an error of ours too costs this client and no other
            self._refuse(error)

    def resumed(self) -> None:
        """Another worker took over."""
        if self.client.mappings:
            self._decided()
        if self._exchange is not None:
            try:
                self._exchange.send()
            except EndedError:
                self._ended()
        self.request()

    def late(self) -> None:
        """Its time is over."""
        self._refuse(
            RefusedError(
                "a client that does not say what it wants",
                cause=f"nothing, or half of a message, within {self._host.limits.handshake_s:g} s",
                cure="look which program connects to this socket",
            )
        )

    def close(self) -> None:
        """Nothing more will be heard of it."""
        self._decided()
        if self._exchange is not None:
            self._exchange.close()
            self._exchange = None
        self._host.files.forget(self.client.number)

    # --- messages --------------------------------------------------------------------------------

    def _carry_out(self, data: bytes) -> None:
        exchange, form = self._exchange, self._sizes.form
        assert exchange is not None, "who has none hears nothing"
        assert form is not None, "a whole message is there"
        if exchange.fds and self.client.mappings:
            os.close(exchange.fds.pop())  # a backing's, which nobody needs, or of a handshake again
        message = wire.read(form, data)
        if message.word is Word.HELLO and not exchange.note & _GREETED:
            exchange.note = _FORMS.index(form)
            exchange.answer(self._hello(message))
            exchange.note |= _GREETED
        elif not self.client.mappings:
            raise RefusedError(
                "a message before the handshake",
                cause=f"the client asks for {message.word.value}",
                cure="a handshake comes first",
            )
        elif message.word is Word.STAT:
            exchange.answer(wire.stat(form, self._length()))
        else:
            self._change(exchange, message)

    def _hello(self, message: Message) -> bytes:
        """Serve it, unless a worker before us has; the answer."""
        if not self.client.mappings:
            self._check(message)
            self._attach(message)
            self._decided()
            self._host.admitted(self.client)
        return wire.done(message.form) if message.answered else b""

    def _check(self, message: Message) -> None:
        assert self._exchange is not None
        count = len(self._exchange.fds)
        if not 1 <= count <= message.descriptors:
            raise RefusedError(
                f"a client with {count} descriptors",
                cause=f"1 to {message.descriptors} belong to its message, the userfaultfd first",
                cure="look which program, in which version, connects to this socket",
            )
        if not message.managed:
            raise RefusedError(
                "a client that wants to map what it is shown",
                cause="it would be handed the image's own descriptor, and what it does with that"
                " cannot be bounded",
                cure="have it ask for copies (managed, policy 1)",
            )
        if message.pid and message.pid != self.client.owner.pid:
            raise RefusedError(
                "a client that speaks for another process",
                cause=f"it says that it is {message.pid}, and is {self.client.owner.pid}",
                cure="the VMM itself must connect, in the daemon's pid namespace",
            )

    def _attach(self, message: Message) -> None:
        assert self._exchange is not None
        host, client = self._host, self.client
        page_size = _page_size(client.owner.pid, message.regions)
        geometry = checked(message.regions, page_size, host.limits.regions)
        name = host.image_for(client)
        attaching.fit(geometry, host.images.spec(name), name, host.limits)
        source = host.images.source(name)
        uffd = os.dup(self._exchange.fds[0])  # one stays open until it is served, or ended
        attaching.take(
            self._clients,
            client,
            geometry,
            uffd,
            source,
            host.door(client).policy,
            has_poison=host.has_poison,
        )
        while self._exchange.fds:
            os.close(self._exchange.fds.pop())

    def _change(self, exchange: Exchange, message: Message) -> None:
        """A region more or less; what cannot be done is answered so, or ends the conversation."""
        one = message.regions[0] if message.regions else None
        if message.word is Word.REMOVE and one is not None:
            self._remove(one)
            exchange.answer(wire.done(message.form))
            return
        if message.word is Word.ADD and message.form is Form.HANDOFF and one is not None:
            self._let_go(one)
            exchange.answer(wire.done(message.form))
            return
        self.client.owner.say(f"asks for {message.word.value} {message.detail}: it is not served")
        exchange.answer(wire.not_done(message.form))
        if message.form is not Form.FRAMES:
            self._clients.hang_up(self.client, quit_now=False)

    def _remove(self, region: Region) -> None:
        """The client is about to unmap it."""
        service = self._clients.service
        for served in list(self.client.mappings.values()):
            with service.costs(served):
                served.main.core.unmap(region.address, region.address + region.size)
                service.commit(served)
                service.perform(served.main)

    def _let_go(self, region: Region) -> None:
        """Memory that was plugged in later has no bytes in the image: the kernel zeroes it."""
        for served in self.client.mappings.values():
            try:
                served.main.uffd.unregister(region.address, region.size)
            except KernelError as error:
                raise RefusedError(
                    "memory that was added", cause=str(error), cure="name memory that is registered"
                ) from None

    def _length(self) -> int:
        return next(iter(self.client.mappings.values())).attach.source.length

    # --- ends ------------------------------------------------------------------------------------

    def _ended(self) -> None:
        """The end of the connection means nothing once the client is served."""
        if self.client.mappings:
            self._clients.hang_up(self.client, quit_now=False)
            return
        self._refuse(
            RefusedError(
                "a client that went before it had said what it wants",
                cause="its connection ended",
                cure="see its own log",
            )
        )

    def _refuse(self, error: Exception) -> None:
        if not isinstance(error, UserfaultError):
            cause = cause_of(error) if isinstance(error, OSError) else traceback.format_exc()
            error = PagerError("a client that cannot be served", cause=cause)
        fds = self._exchange.fds if self._exchange is not None else []
        handed_over = bool(self.client.mappings) or any(map(asked.is_userfaultfd, fds))
        self._host.turn_away(self.client, error, handed_over=handed_over)
        self._decided()
        if self.client.conversation is self:
            self._clients.hang_up(self.client, quit_now=True)

    def _decided(self) -> None:
        self._host.waiting.discard(self)


def _page_size(pid: int, regions: tuple[Region, ...]) -> int:
    """Of the memory there: the drafts do not say it.  (4 KiB where it may not be looked at.)"""
    if not regions or pid <= 0:
        return BASE_PAGE
    first = regions[0].address
    try:
        found = registered.areas(pid, first, first + 1)
    except (OSError, OverflowError):
        return BASE_PAGE
    return found[0].page_size if found else BASE_PAGE
