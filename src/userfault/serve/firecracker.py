"""A Firecracker VM as a client: its handshake, and the silence after it.

It sends its regions and its userfaultfd, and nothing more; some releases close the socket at once.
So the end of the connection means nothing once the VM is served: its process's end does.
"""

from __future__ import annotations

import os
import time
import traceback
from typing import Protocol

from userfault.kernel.errors import PagerError, UserfaultError
from userfault.linux.pidfd import close_all
from userfault.linux.refused import cause_of
from userfault.pager.drivers.clients.client import Client
from userfault.pager.drivers.clients.clients import Clients
from userfault.serve import asked, attaching, handshake
from userfault.serve.doorkeeper import Doorkeeper
from userfault.serve.peers import RefusedError
from userfault.wire.firecracker import Handshake
from userfault.wire.regions import Geometry


class Host(Doorkeeper, Protocol):
    """The daemon."""

    has_poison: bool

    def home(self, backing: str) -> int | None:
        """Which other worker serves memory that several processes map."""

    def pass_on(self, client: Client, place: int) -> bool:
        """Have another worker serve it, whose message lies in its socket still: it has gone."""


class FirecrackerTalk:
    """What is said with one VM."""

    edge = foreign = True

    def __init__(self, client: Client, clients: Clients, host: Host) -> None:
        self.client = client
        self._clients = clients
        self._host = host
        self._fds: list[int] = []
        self._handed_over = False  # a userfaultfd: it counts on being served
        limits = host.limits
        self._message = Handshake(regions=limits.regions, most=limits.message_bytes)
        self.deadline = time.monotonic() + limits.handshake_s
        self._waits = True
        host.waiting.add(self)
        handshake.begin(client.channel)

    def request(self) -> None:
        """Something came, or its end."""
        if not self._waits or self.client.mappings:
            self._more()
            return
        try:
            while (peeked := handshake.peek(self.client.channel)) is not None:
                if self._look(peeked):
                    return
        except Exception as error:  # an error of ours too costs this client and no other
            self._refuse(error)

    def resumed(self) -> None:
        """Another worker took over: what came to the one before is still in the socket."""
        if self.client.mappings:
            self._decided()
        self.request()

    def late(self) -> None:
        """Its time is over."""
        said = "half of a message" if self._message.began else "nothing"
        self._refuse(
            RefusedError(
                "a client that does not say what it wants",
                cause=f"within {self._host.limits.handshake_s:g} s it has sent {said}",
                cure="look which program connects to this socket",
            )
        )

    def close(self) -> None:
        """Nothing more will be heard of it."""
        self._decided()

    def _look(self, peeked: handshake.Peeked) -> bool:
        """Whether it is served now.  Raises RefusedError, BadMessageError, OSError, PagerError."""
        self._fds += peeked.fds
        self._handed_over = self._handed_over or any(map(asked.is_userfaultfd, peeked.fds))
        if peeked.lost and len(self._fds) <= 1:
            raise RefusedError(
                "a client whose descriptor could not be taken",
                cause="no descriptor is left here",
                cure="raise LimitNOFILE=, or serve fewer clients (--max-clients)",
            )
        if len(self._fds) > 1:
            raise RefusedError(
                "a client that sends too many descriptors",
                cause="one belongs to the message, the userfaultfd",
                cure="look which program, in which version, connects to this socket",
            )
        geometry = self._message.feed(peeked.data)
        if geometry is not None:
            self._attach(geometry)
            return True
        if peeked.ended:
            raise RefusedError(
                "a client that went before it had said what it wants",
                cause="its connection ended" + (" in the middle" if self._message.began else ""),
                cure="see its own log",
            )
        return False

    def _attach(self, geometry: Geometry) -> None:
        try:
            self._serve(geometry, self._host.home)
        except attaching.ElsewhereError as elsewhere:
            if not self._host.pass_on(self.client, elsewhere.place):  # that worker has ended
                self._serve(geometry, None)

    def _serve(self, geometry: Geometry, home: attaching.Home | None) -> None:
        if not self._fds:
            raise RefusedError(
                "a client without a userfaultfd",
                cause="no descriptor came with the message",
                cure="it must be sent with the first byte of it (SCM_RIGHTS, unix(7))",
            )
        host, client = self._host, self.client
        name = host.image_for(client)
        attaching.fit(geometry, host.images.spec(name), name, host.limits)
        self._fds.append(os.dup(self._fds[0]))  # one stays open until it is served, or ended
        source = host.images.source(name)
        uffd = self._fds.pop()
        attaching.take(
            self._clients,
            client,
            geometry,
            uffd,
            source,
            host.door(client).policy,
            has_poison=host.has_poison,
            home=home,
        )
        self._decided()
        handshake.drain(client.channel)  # it is recorded: from here on a successor does not need it
        host.admitted(client)

    def _more(self) -> None:
        """What no Firecracker says: it is thrown away.  Or its end, which means nothing."""
        try:
            taken = handshake.drain(self.client.channel)
        except OSError:
            taken = -1
        if taken < 0:
            self._clients.hang_up(self.client, quit_now=False)

    def _refuse(self, error: Exception) -> None:
        """It is not served.  Who has handed over a userfaultfd keeps a duplicate, notices nothing,
        and would wait for ever at its first page: such a one is ended."""
        if not isinstance(error, UserfaultError):
            cause = cause_of(error) if isinstance(error, OSError) else traceback.format_exc()
            error = PagerError("a client that cannot be served", cause=cause)
        self._host.turn_away(self.client, error, handed_over=self._handed_over)
        self._decided()
        self._clients.hang_up(self.client, quit_now=True)

    def _decided(self) -> None:
        if self._waits:
            self._waits = False
            close_all(self._fds)
            self._fds = []
            self._host.waiting.discard(self)
