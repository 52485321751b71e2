"""Receiving: memory that fills itself from a sender, and the guest that goes on over it."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import msgspec

from userfault.api.lazy import lazy
from userfault.api.memory import LazyMemory
from userfault.api.pager import Pager
from userfault.kernel.errors import (
    MemoryUnavailable,
    PagerError,
    UsageError,
    UserfaultError,
)
from userfault.kernel.memtypes import size_name
from userfault.linux.room import room_of
from userfault.migrate import control
from userfault.migrate.errors import NotReceived
from userfault.migrate.frames import Offer, Refused
from userfault.migrate.link import PATIENCE_S
from userfault.pager.core.policy import Policy
from userfault.pager.drivers.processes.lean import lean_path
from userfault.pager.drivers.processes.spawn import spawn_python
from userfault.serve.page_server.places import host_and_port
from userfault.serve.page_server.tls import Tls
from userfault.source.spec import PagesSpec, Resolved

_HOST = "127.0.0.1"
_LONG_S = 1e8  # a read of a page ends when it has come, or the sender is given up
_STEP_S = 0.1
_TOLD_S = 5.0  # until the sender has heard why not
_GO_S = 1.0  # between two looks whether somebody wants us to end


class Guest(Protocol):
    """What goes on over memory that was received; a `Machine` is one."""

    def set_state(self, data: bytes) -> None:
        """Be where the sender's was; it does not run yet.  Raises UserfaultError."""
        ...

    def resume(self) -> None:
        """Run."""
        ...

    def close(self) -> None:
        """Stop, and let go of the memory."""
        ...


class Received:
    """What has come: it runs here now, and pages come in still.

    `memories`: as `lazy()` makes them.  `guest`: what `take` made, it runs; None without.  Close it
    before the program ends, or use it with `with`.
    """

    def __init__(self, receiver: Receiver) -> None:
        self._receiver = receiver
        self.memories = receiver.memories
        self.guest = receiver.guest
        self.offer = receiver.offer
        self.state = receiver.state
        self._thread = threading.Thread(target=receiver.finish, name="userfault-arrival")
        self._thread.start()

    def wait(self, timeout: float | None = None) -> bool:
        """Until all pages are in, and the sender knows; False after `timeout` seconds.

        Raises NotReceived where the sender was lost before, SourceError for pages given up.
        """
        self._thread.join(timeout)
        if self._thread.is_alive():
            return False
        if self._receiver.failure is not None:
            raise self._receiver.failure
        return True

    def close(self) -> None:
        """Close guest and memories.  Pages that are not in are lost then, and the sender is told.
        Idempotent."""
        self._end(None)

    def __enter__(self) -> Received:
        return self

    def __exit__(self, kind: object, error: BaseException | None, where: object) -> None:
        self._end(error)

    def _end(self, error: BaseException | None) -> None:
        self._receiver.leave(error)
        self._thread.join(_TOLD_S + _GO_S)
        self._receiver.close()
        self._thread.join()


class Receiver:
    """Waits for one sender at `address` ([HOST:]PORT; port 0: any), from now on.

    `tls`: certificates; None: none, whoever reaches the port may send.  `memory`: the type of all
    memories, as for `lazy()`, or one for each.  `take`: makes the guest, paused, from the offer and
    the memories.  `policy`, `grow_pool`: as for `lazy()`.  `patience_s`: how long a sender may be
    away.

    Raises UsageError for the address and the files of TLS, PagerError where no process starts.
    """

    def __init__(
        self,
        address: str,
        *,
        tls: Tls | None,
        memory: str | Sequence[str] = "anon",
        take: Callable[[Offer, list[LazyMemory]], Guest] | None = None,
        policy: Policy | None = None,
        patience_s: float = PATIENCE_S,
        grow_pool: bool = False,
    ) -> None:
        self.offer, self.state, self.peer = Offer(()), b"", ""
        self.memories: list[LazyMemory] = []
        self.guest: Guest | None = None
        self.failure: UserfaultError | None = None
        self._memory, self._take = memory, take
        self._policy = _filling(policy)
        self._grow_pool = grow_pool
        self._closing = False
        self._leaves: Refused | None = None
        if tls is not None:
            tls.context(server=True)  # what is wrong with its files is told here
        self._undo = contextlib.ExitStack()
        with contextlib.ExitStack() as undo:
            self._listener = undo.enter_context(_listening(address))
            host, port = self._listener.getsockname()[:2]
            self.address = f"{host}:{port}"
            self._channel, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            undo.callback(theirs.close)
            self._undo.callback(self._channel.close)
            self._lines, lines = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            undo.callback(lines.close)
            self._undo.callback(self._lines.close)
            try:
                self.pid = spawn_python(
                    "userfault.migrate.receiver_main", "main", theirs.fileno(), lean_path()
                )
                start = msgspec.msgpack.encode(control.Start(tls, patience_s))
                fds = [self._listener.fileno(), lines.fileno()]
                socket.send_fds(self._channel, [start], fds)
            except BaseException:
                self._undo.close()
                raise

    def receive(self, timeout: float | None = None) -> Received:
        """Wait for a sender, and until what it sends runs here.

        Raises NotReceived where it was called off or the sender is lost, TimeoutError where none
        has come, what `lazy()` and `take` raise (the sender is told), PagerError.
        """
        try:
            offered = self._next(timeout)
            assert isinstance(offered, control.Offered)
            self.offer, self.peer = offered.offer, offered.peer
            self._prepare()
            self._send(control.Accept())
            while not isinstance(message := self._next(None), control.Go):
                if isinstance(message, control.Switched):
                    self._set(message.state)
                    self._send(control.Ready())
            if self.guest is not None:
                self.guest.resume()
        except BaseException as error:
            if self.peer and not isinstance(error, NotReceived):
                self._refuse(_told(error))
            self.close()
            raise
        return Received(self)

    def finish(self) -> None:
        """Wait for all pages, and have the sender told.  What fails is `failure` then."""
        try:
            for each in self.memories:
                while not each.wait(_GO_S):
                    if self._closing:
                        return
                    self._look()
                    if self._leaves is not None:
                        self._refuse(self._leaves)
                        return
                self._look()  # the cause, before what comes of it
                _check(each)
            self._send(control.Complete())
            while not isinstance(self._next(None), control.Finished):
                pass
        except UserfaultError as error:
            if not self._closing:
                self.failure = error
                if not isinstance(error, NotReceived):
                    self._refuse(_told(error))

    def leave(self, error: BaseException | None) -> None:
        """Wait no more for pages; the sender, who may have them still, is told why.  `error`: what
        it is that ends it; None: it is closed.  Who calls it waits for `finish`."""
        if self._leaves is None:
            self._leaves = _told(error)

    def close(self) -> None:
        """Let go of everything.  Idempotent."""
        if self._closing:
            return
        self._closing = True
        with contextlib.ExitStack() as end:
            end.callback(self._end_process)
            end.callback(self._undo.close)
            for each in self.memories:
                end.callback(each.close)
            if self.guest is not None:
                end.callback(self.guest.close)

    def _end_process(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)  # it has nothing to keep
        with contextlib.suppress(ChildProcessError):
            os.waitpid(self.pid, 0)

    def _prepare(self) -> None:
        """Memory and guest: it is found out here whether there is room for them."""
        _check_room(self.offer)
        kinds = self._memory
        lengths = self.offer.lengths
        kinds = [kinds] * len(lengths) if isinstance(kinds, str) else list(kinds)
        if len(kinds) != len(lengths):
            raise UsageError(
                f"{len(kinds)} types of memory", cause=f"the sender has {len(lengths)} memories"
            )
        pager = Pager()
        self._undo.callback(pager.close)
        at = 0
        for number, (kind, length) in enumerate(zip(kinds, lengths, strict=True)):
            spec = PagesSpec(length, f"the sender {self.peer}", number, at)
            source = Resolved(spec, self._lines.fileno())
            self.memories.append(
                lazy(
                    source,
                    memory=kind,
                    writable=True,
                    policy=self._policy,
                    pager=pager,
                    grow_pool=self._grow_pool,
                )
            )
            at += length
        if self._take is not None:
            self.guest = self._take(self.offer, self.memories)

    def _set(self, state: bytes) -> None:
        self.state = state
        if self.guest is not None:
            self.guest.set_state(state)

    def _refuse(self, refused: Refused) -> None:
        """Have the sender told why not, and wait until it has heard: it runs on if it still may."""
        if self._closing:
            return
        with contextlib.suppress(NotReceived, PagerError, TimeoutError):
            self._send(control.Refuse(refused))
            self._next(_TOLD_S)

    def _look(self) -> None:
        """Raise NotReceived where the sender was given up, PagerError where it was closed."""
        with contextlib.suppress(BlockingIOError):
            self._taken(self._packet(0))

    def _next(self, timeout: float | None) -> Any:
        """What the process says next.  Raises NotReceived, TimeoutError, PagerError."""
        deadline = None if timeout is None else time.monotonic() + timeout
        while True:
            try:
                return self._taken(self._packet(_STEP_S))
            except TimeoutError:
                if deadline is not None and time.monotonic() > deadline:
                    raise TimeoutError(f"no sender has come in {timeout} s") from None

    def _packet(self, timeout: float) -> bytes:
        """The next one; none where the process has ended.  Raises TimeoutError, BlockingIOError."""
        try:
            self._channel.settimeout(timeout)
            return self._channel.recv(control.PACKET)
        except (TimeoutError, BlockingIOError):
            raise
        except OSError:  # another thread has closed it, or something was not read at the other end
            return b""

    def _taken(self, data: bytes) -> Any:
        if self._closing:
            raise PagerError("it was closed", cause="close() was called meanwhile")
        if not data:
            raise PagerError(
                f"process {self.pid}, which has the connection to the sender, has ended",
                cause="it was killed, or it failed (standard error says more)",
                cure="pages that are not in are lost; send it anew",
            )
        message = msgspec.msgpack.decode(data, type=control.FromProcess)
        if isinstance(message, control.Failed):
            refused = message.refused
            raise NotReceived(refused.what, cause=refused.cause, cure=refused.cure)
        return message

    def _send(self, message: control.ToProcess) -> None:
        try:
            self._channel.settimeout(None)
            self._channel.send(msgspec.msgpack.encode(message))
        except OSError:
            self._taken(b"")


def _filling(policy: Policy | None) -> Policy:
    """No page is given up while the sender may come back, nothing is dropped to be got again."""
    return msgspec.structs.replace(
        policy or Policy(),
        deadline_s=_LONG_S,
        record="never",
        replay=False,
        share="off",
        resident_bytes=0,
        resident_percent=None,
    )


def _told(error: BaseException | None) -> Refused:
    """Why it does not go on, for the sender."""
    if isinstance(error, UserfaultError):
        return Refused.of(error.what, error.cause, error.cure)
    if error is None:
        return Refused("it was closed before all pages were in")
    words = str(error) or "somebody wanted it to end"
    return Refused.of("it was ended", f"{type(error).__name__}: {words}", "")


def _check(memory: LazyMemory) -> None:
    """Raise SourceError where not all of it came."""
    memory._parts.check()


def _check_room(offer: Offer) -> None:
    room = room_of()
    if room is not None and room.left < offer.length:
        raise MemoryUnavailable(
            f"{size_name(offer.length)} of memory for what is to be received",
            cause=f"{room.whose} leaves {size_name(room.left)}",
            cure="free memory, raise the limit, or receive it on another host",
        )


def _listening(address: str) -> socket.socket:
    host, port = host_and_port(address)
    try:
        family, *_, where = socket.getaddrinfo(host or _HOST, port, type=socket.SOCK_STREAM)[0]
        return socket.create_server((where[0], where[1]), family=family, backlog=16)
    except OSError as error:
        raise UsageError(
            f"cannot receive at {address}",
            cause=error.strerror or str(error),
            cure="name an address of this host, and a port that is free",
        ) from None
