"""A Firecracker VM with a guest_memfd: an experiment, since its kernel is in no release.

Its vCPUs' faults come as messages and are answered in order; accesses of the VMM itself come by the
userfaultfd.  Both are served from one state, and from the bitmap that the VM has, too.

A message is answered once, whoever is killed (`exchange.py`).  What was read of the userfaultfd is
lost with a worker; so its successor wakes whoever waits there, who faults again.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import signal
import time
import traceback
from typing import Protocol

from userfault.kernel.errors import KernelError, PagerError, UserfaultError
from userfault.kernel.events import PageFault, Remove
from userfault.linux.lifeline import LifeLine
from userfault.linux.refused import cause_of
from userfault.linux.uffd import LiveUserfaultfd
from userfault.pager.drivers.clients.book import Book
from userfault.pager.drivers.clients.client import Client
from userfault.pager.drivers.clients.clients import Clients
from userfault.serve import asked, attaching, records
from userfault.serve.delivering import Bytes
from userfault.serve.doorkeeper import Doorkeeper
from userfault.serve.exchange import EndedError, Exchange
from userfault.serve.files import Files
from userfault.serve.guest_memory import IntoGuest
from userfault.serve.keeping import keep
from userfault.serve.peers import RefusedError
from userfault.serve.restores import Restored, Restores
from userfault.source.spec import Spec
from userfault.wire import secret as wire
from userfault.wire.regions import Geometry, Region
from userfault.wire.secret import PAGE, Generation, Guest

PROTOCOL, ASYNCHRONOUS = "secret", "secret-apf"
_SECOND, _FAULTS = 1, 2  # what is to come next; noted of the conversation
_AGAIN_S = 0.001


class Host(Doorkeeper, Protocol):
    """The daemon."""

    files: Files
    restores: Restores


class Asked:
    """One connection of such a VM: its main one, or the one for asynchronous faults."""

    edge = foreign = True

    def __init__(self, client: Client, clients: Clients, host: Host) -> None:
        self.client = client
        self._clients = clients
        self._host = host
        self._sizes = wire.Sizes(host.limits.message_bytes)
        self._exchange: Exchange | None = None
        self._guest: Guest | None = None
        self._restored: Restored | None = None
        self._busy = False
        self._at_once = False
        try:
            file = host.files.of(client.number)
            self._exchange = Exchange(client.channel, file, self._sizes)
            self._begin(self._exchange)
        except Exception as error:
            self._refuse(error)

    @property
    def needed(self) -> bool:
        """The VM cannot do without it."""
        return self.client.open

    def _begin(self, exchange: Exchange) -> None:
        """The first worker's, or of one that goes on."""

    def _other(self, exchange: Exchange, data: bytes) -> None:
        """A message that is no fault."""
        raise NotImplementedError

    def request(self) -> None:
        """Something came, or its end."""
        if self._exchange is None and self.client.open:
            self._clients.hang_up(self.client, quit_now=True)
        try:
            while self._exchange is not None and not self._busy:
                data = self._exchange.next()
                if data is None:
                    return
                if self._sizes.faults is None or self._sizes.second:
                    self._other(self._exchange, data)
                else:
                    self._fault(self._exchange, data)
        except EndedError:
            self._ended()
        except Exception as error:  # an error of ours too costs this client and no other
            self._refuse(error)

    def resumed(self) -> None:
        """Another worker took over."""
        if self._exchange is not None:
            with contextlib.suppress(EndedError):
                self._exchange.send()
        self.request()

    def close(self) -> None:
        """Nothing more will be heard of it."""
        if self._exchange is not None:
            self._exchange.close()
            self._exchange = None
        if self._restored is not None:
            restored, self._restored = self._restored, None
            self._host.restores.leave(restored)
        self._host.files.forget(self.client.number)

    def _fault(self, exchange: Exchange, data: bytes) -> None:
        guest, restored = self._guest, self._restored
        assert guest is not None
        assert restored is not None
        fault = wire.read(guest.generation, data)
        if fault.vcpu >= wire.MOST_VCPUS:
            raise RefusedError(
                f"a fault of vCPU {fault.vcpu}", cause=f"{wire.MOST_VCPUS} are allowed", cure=""
            )

        def delivered(bytes_: Bytes | None, cause: str) -> None:
            self._busy = False
            if bytes_ is None:
                self._refuse(PagerError("a page of a VM cannot be delivered", cause=cause))
            elif self._exchange is not None:
                zero = len(bytes_) == PAGE and bytes_ == bytes(PAGE)
                self._reply(exchange, wire.reply(guest.generation, fault, PAGE, zero=zero))
                if not self._at_once:
                    self.request()

        self._busy = self._at_once = True
        restored.deliver(guest.offset_of(fault), PAGE, delivered)
        self._at_once = False

    def _reply(self, exchange: Exchange, data: bytes) -> None:
        try:
            if not exchange.answer(data):
                raise RefusedError(
                    "a VM that does not read its answers", cause="its queue is full", cure=""
                )
        except EndedError:
            self._ended()
        except Exception as error:
            self._refuse(error)

    def _ended(self) -> None:
        self.client.owner.say("has closed its connection")
        self._clients.hang_up(self.client, quit_now=True)

    def _refuse(self, error: Exception) -> None:
        if not isinstance(error, UserfaultError):
            cause = cause_of(error) if isinstance(error, OSError) else traceback.format_exc()
            error = PagerError("a VM that cannot be served", cause=cause)
        fds = self._exchange.fds if self._exchange is not None else []
        handed_over = self._restored is not None or any(map(asked.is_userfaultfd, fds))
        self._host.turn_away(self.client, error, handed_over=handed_over)
        if self.client.conversation is self and self.client.open:
            self._clients.hang_up(self.client, quit_now=True)


class SecretTalk(Asked):
    """The main connection: handshake, second message, faults; and the userfaultfd."""

    deadline = 0.0
    _uffd: LiveUserfaultfd | None = None
    _again_at: float | None = None

    def _begin(self, exchange: Exchange) -> None:
        self._again: set[int] = set()  # addresses to be mapped again
        self.deadline = time.monotonic() + self._host.limits.handshake_s
        if exchange.note:
            self._take_up(exchange)
        if exchange.note < _FAULTS:
            self._host.waiting.add(self)

    def late(self) -> None:
        """Its time is over."""
        self._refuse(
            RefusedError(
                "a VM that does not say what it wants",
                cause=f"not all of it within {self._host.limits.handshake_s:g} s",
                cure="look which program connects to this socket",
            )
        )

    def resumed(self) -> None:
        """Who waits in the VMM faults again."""
        if self._guest is not None and self._uffd is not None:
            for region in self._guest.geometry.regions:
                with contextlib.suppress(KernelError):
                    self._uffd.wake(region.address, region.size)
        super().resumed()

    def close(self) -> None:
        """Its userfaultfd is the record's."""
        self._host.waiting.discard(self)
        if self._uffd is not None:
            self._clients.service.loop.forget(self._uffd.fileno())
            self._uffd.close()
            self._uffd = None
        super().close()

    @property
    def _token(self) -> str:
        return f"{PROTOCOL}-{self.client.number}"

    def _other(self, exchange: Exchange, data: bytes) -> None:
        if self._sizes.second:
            if wire.rings(data):
                raise RefusedError(
                    "a VM with rings that it shares with its kernel",
                    cause="they are not served yet",
                    cure="switch them off in the VMM: faults come as messages then",
                )
            self._note(exchange, _FAULTS)
            exchange.answer(b"")
            self._decided()
            return
        if self._host.restores.found(self._token) is None:
            self._record(exchange, wire.handshake(data, self._host.limits.regions))
        self._take_up(exchange)
        assert self._guest is not None
        exchange.answer(b"")
        if self._guest.generation is Generation.A:
            self._note(exchange, _FAULTS)
            self._decided()
        else:
            self._note(exchange, _SECOND)

    def _note(self, exchange: Exchange, note: int) -> None:
        exchange.note = note
        self._sizes.second = note == _SECOND

    def _decided(self) -> None:
        self._host.waiting.discard(self)
        self._host.admitted(self.client)

    def _record(self, exchange: Exchange, guest: Guest) -> None:
        """Write it down: from here on it survives us."""
        fds = exchange.fds
        if len(fds) != 3 or not asked.is_userfaultfd(fds[0]):
            raise RefusedError(
                f"a VM with {len(fds)} descriptors",
                cause="three belong to its message: userfaultfd, guest_memfd, bitmap",
                cure="an ordinary VM connects to the socket of --firecracker",
            )
        name = self._host.image_for(self.client)
        spec = self._host.images.spec(name)
        attaching.fit(guest.geometry, spec, name, self._host.limits)
        length = guest.geometry.length
        if os.fstat(fds[1]).st_size < length or os.fstat(fds[2]).st_size < -(-length // PAGE // 8):
            raise RefusedError(
                "a VM whose memory is not what it says",
                cause="its guest_memfd, or its bitmap, is too short",
                cure="look of which commit of the branch the VMM is",
            )
        self.client.lifeline = LifeLine.armed(signal.SIGKILL, whom=self.client.owner.pid)
        self.client.changed()
        book = self._clients.book
        book.changed(self.client)
        states = os.memfd_create("userfault-states", os.MFD_CLOEXEC)
        os.ftruncate(states, length // PAGE)
        _, source = self._host.images.source(name)
        kept = [os.dup(fd) for fd in fds]
        self._host.restores.add(_told(self._token, spec, guest, book, [source, states, *kept]))

    def _take_up(self, exchange: Exchange) -> None:
        """As it is recorded."""
        restored = self._restored = self._host.restores.open(self._token)
        secret = restored.told.secret
        assert secret is not None
        regions = tuple(Region(*each) for each in secret.regions)
        length = sum(each.size for each in regions)
        generation = Generation(secret.generation)
        self._guest = Guest(generation, Geometry(PAGE, regions, length), secret.starts)
        self._sizes.faults = generation
        self._sizes.second = exchange.note == _SECOND
        fd = os.dup(self._clients.book.kept[secret.uffd])
        fcntl.fcntl(fd, fcntl.F_SETFL, fcntl.fcntl(fd, fcntl.F_GETFL) | os.O_NONBLOCK)
        self._uffd = LiveUserfaultfd.adopt(fd)
        self._clients.service.loop.watch(fd, self._touched)
        while exchange.fds:
            os.close(exchange.fds.pop())

    # --- the VMM's own accesses ------------------------------------------------------------------

    def _touched(self) -> None:
        uffd = self._uffd
        if uffd is None:
            return
        try:
            for event in uffd.read():
                if isinstance(event, PageFault):
                    self._populate(event.address // PAGE * PAGE)
                elif isinstance(event, Remove):
                    self._removed(event.start, event.end)
        except Exception as error:
            self._refuse(error)

    def _removed(self, start: int, end: int) -> None:
        assert self._restored is not None
        assert isinstance(self._restored.into, IntoGuest)
        assert self._guest is not None
        for region in self._guest.geometry.regions:
            low, high = max(start, region.address), min(end, region.address + region.size)
            if low < high:
                self._restored.into.dropped(region.offset + low - region.address, high - low)

    def _populate(self, address: int) -> None:
        assert self._restored is not None
        assert self._guest is not None
        for region in self._guest.geometry.regions:
            if region.address <= address < region.address + region.size:

                def delivered(data: Bytes | None, cause: str) -> None:
                    if data is None:
                        self._refuse(PagerError("a page cannot be delivered", cause=cause))
                    else:
                        self._show(address)

                self._restored.deliver(region.offset + address - region.address, PAGE, delivered)
                return
        raise RefusedError(f"a fault at {address:#x}", cause="no region has it", cure="")

    def _show(self, address: int) -> None:
        """The page is in the guest_memfd: map it."""
        if self._uffd is None:
            return
        try:
            self._uffd.continue_(address, PAGE)
        except KernelError as error:
            if error.errno == errno.EEXIST:
                self._uffd.wake(address, PAGE)
            elif error.errno == errno.EAGAIN:  # an event waits, or was about to
                self._again.add(address)
                self._again_at = time.monotonic() + _AGAIN_S
                self._clients.service.loop.timers[self] = None
            elif error.errno == errno.EFAULT:  # a hole was punched meanwhile: it faults again
                self._uffd.wake(address, PAGE)
            elif error.errno not in (errno.ESRCH, errno.ENOENT):
                self._refuse(error)

    def next_time(self) -> float | None:
        """When to map again."""
        return self._again_at if self._again else None

    def tick(self, now: float) -> None:
        """Map what is due."""
        if self._again and self._again_at is not None and now >= self._again_at:
            again, self._again = self._again, set()
            for address in again:
                self._show(address)


class AsynchronousTalk(Asked):
    """The second socket: faults alone, of the VM whose main connection is another."""

    def _fault_of(self) -> SecretTalk | None:
        for client in self._clients.book.clients.values():
            talk = client.conversation
            same = client.owner.pid == self.client.owner.pid
            if isinstance(talk, SecretTalk) and same and talk._guest is not None:
                return talk
        return None

    def request(self) -> None:
        """It connects before the main one: until that has said what it wants, nothing can come."""
        main = self._fault_of() if self._restored is None else None
        if main is not None and main._restored is not None:
            self._guest, self._sizes.faults = main._guest, Generation.B
            self._restored = main._restored
            self._restored.connections += 1
        super().request()

    def _other(self, exchange: Exchange, data: bytes) -> None:
        del exchange, data
        raise RefusedError(
            "a fault of a VM that has not said what it wants",
            cause="its main connection is not there",
            cure="look which program connects to this socket",
        )


def _told(token: str, spec: Spec, guest: Guest, book: Book, fds: list[int]) -> records.Restore:
    """For the record, with places for `fds`: source, states, userfaultfd, guest_memfd, bitmap."""
    source, states, uffd, memory, bitmap = (keep(book.kept, fd) for fd in fds)
    regions = tuple((each.address, each.size, each.offset) for each in guest.geometry.regions)
    whole = (0, guest.geometry.length)
    return records.Restore(
        token=token,
        spec=spec,
        source=source,
        page_size=PAGE,
        parts=(whole,),
        slots=((*whole, 0, memory),),
        states=states,
        secret=records.Secret(int(guest.generation), regions, guest.starts, uffd, bitmap),
    )
