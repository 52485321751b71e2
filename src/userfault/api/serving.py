"""Memory that a program has registered itself, for itself or for another process: served here."""

from __future__ import annotations

import contextlib
import mmap
import operator
import os
import select
import signal
import socket
from collections.abc import Callable
from typing import Any

import msgspec

from userfault.api.asking import ask, hung_up
from userfault.api.starting import Family
from userfault.kernel.errors import PagerError, UsageError, UserfaultError
from userfault.kernel.memtypes import round_up
from userfault.kernel.modes import Feature
from userfault.linux.lifeline import LifeLine
from userfault.linux.uffd import offer
from userfault.linux.unpatched import packet_sockets
from userfault.pager.core.policy import Policy
from userfault.pager.core.states import UNSETTLED
from userfault.pager.drivers.wire import messages
from userfault.serve import asked
from userfault.serve.peers import RefusedError
from userfault.serve.records import LAZY
from userfault.snapshot.serving import handover
from userfault.snapshot.stores.place import place_of
from userfault.source.spec import FunctionSpec, Resolved, resolve
from userfault.wire.errors import BadMessageError
from userfault.wire.regions import Geometry, Region, checked

_MOST_REGIONS = 4096

Ask = Callable[[messages.Request, list[int]], object]


class Request(msgspec.Struct, frozen=True):
    """What was asked for: see `Pager.serve`."""

    regions: tuple[tuple[int, int, int], ...]
    page_size: int
    length: int | None
    policy: Policy | None
    process: int


class Session:
    """Memory that is served, from `Pager.serve` to `close()`.  Use it as a context manager.

    `pid`: of the process whose memory it is.  `pages`: of `page_size` bytes, all of them.
    """

    def __init__(self, family: Family, attach: messages.Attach, pid: int) -> None:
        self.pid = pid
        self.pages = attach.pages
        self.page_size = attach.page_size
        self._attach = attach
        self._family = family
        self._serial = 0
        self._states: mmap.mmap | None = None
        self._finished = -1

    @property
    def closed(self) -> bool:
        """Whether it was let go of."""
        return self._finished < 0

    def fileno(self) -> int:
        """A socket that hangs up (POLLHUP) when its process has ended, or the pager."""
        return self._family.channel.fileno()

    @property
    def finished(self) -> bool:
        """Whether everything is in, and the pager not needed any more."""
        return self.closed or _readable(self._finished, 0)

    def settled(self) -> int:
        """Pages that need nothing more."""
        return self.pages - sum(self.count(state) for state in UNSETTLED)

    def count(self, state: int) -> int:
        """Pages in a state of `pager.core.states`."""
        return self._states[0 : self.pages].count(bytes([state])) if self._states else 0

    def complete(self) -> None:
        """Fill everything, while nothing waits."""
        self._ask(messages.Complete(self._attach.number))

    def prefetch(self, offset: int, length: int) -> None:
        """Fill these bytes of the source soon."""
        first = offset // self.page_size
        last = -(-(offset + length) // self.page_size)
        self._ask(messages.Prefetch(self._attach.number, first, last - first))

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until everything is in; False when it is not after `timeout` seconds.

        Raises PagerError when the pager has died.
        """
        if _readable(self._finished, timeout, self._family.channel):
            return True
        if hung_up(self._family.channel):
            raise PagerError(
                "the pager has died before all pages were in",
                cause="its processes were killed together, or it failed",
                cure="restore again: pages that were not filled are lost",
            )
        return False

    def answer(self) -> messages.Answer:
        """The counters, what failed, and who waits for too long.  Raises PagerError."""
        reply = self._ask(messages.Ask(self._attach.number))
        assert isinstance(reply, messages.Answer)
        return reply

    def close(self) -> None:
        """Let go of it: what is not filled by now is given up, and raises SIGBUS.  Idempotent."""
        if self.closed:
            return
        with contextlib.suppress(PagerError):
            if not self.finished:
                self._ask(messages.GiveUp(self._attach.number, "its session was closed"))
            ask(self._family, 0, messages.Quit(), [])
        self._family.channel.close()
        if self._states is not None:
            self._states.close()
        os.close(self._finished)
        self._finished = -1

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _ask(self, message: messages.Request, fds: list[int] | None = None) -> object:
        if self.closed and self._states is not None:
            raise PagerError("the session is closed", cause="close() was called", cure="")
        self._serial += 1
        reply = ask(self._family, self._serial, message, fds or [])
        if reply is None:
            raise PagerError(
                f"the memory of process {self.pid} is not served any more",
                cause="that process has ended, or the pager has died",
                cure="",
            )
        if isinstance(reply, messages.Refused):
            raise PagerError(reply.what, cause=reply.cause, cure=reply.cure)
        return reply

    def _begin(self, undo: contextlib.ExitStack, uffd: int, more: list[int]) -> None:
        """Hand the descriptors over; from the reply on, faults are served."""
        states, finished = asked.shared(undo, self._attach)
        own = self.pid == os.getpid()
        line = LifeLine.for_this_process() if own else LifeLine.armed(signal.SIGKILL, whom=self.pid)
        undo.callback(line.close)
        with contextlib.ExitStack() as undo_line:
            undo_line.callback(line.disarm)
            self._ask(self._attach, [uffd, states, finished, line.read, line.write, *more])
            undo_line.pop_all()
        self._states = mmap.mmap(states, self.pages, prot=mmap.PROT_READ)
        self._finished = os.dup(finished)


def begin(
    family: Family, admit: Ask, number: int, uffd: Any, source: Any, request: Request
) -> Session:
    """Have the pager serve it: see `Pager.serve`."""
    with contextlib.ExitStack() as undo:
        resolved = _resolved(source, request.length)
        undo.callback(resolved.close)
        fd = uffd if isinstance(uffd, int) else operator.index(uffd.fileno())
        attach = _attach(request, fd, resolved)
        source = [resolved.fd] if attach.has_source else []
        return hand_over(family, admit, number, attach, request.process, uffd=fd, more=source)


def hand_over(
    family: Family,
    admit: Ask,
    number: int,
    attach: messages.Attach,
    pid: int,
    *,
    uffd: int,
    more: list[int],
) -> Session:
    """Have the pager serve memory of process `pid`, whose request is made already.

    `more`: the descriptors that `attach` says it has, which stay the caller's, as `uffd` does.
    """
    with contextlib.ExitStack() as undo:
        ours, theirs = packet_sockets()
        undo.callback(theirs.close)
        theirs.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        process = os.pidfd_open(pid)
        undo.callback(os.close, process)
        with contextlib.ExitStack() as undo_session:
            undo_session.callback(ours.close)
            admit(messages.Admit(number, f"process {pid}: "), [theirs.fileno(), process])
            own = msgspec.structs.replace(family, channel=ours)
            session = Session(own, attach, pid)
            session._begin(undo, uffd, more)
            undo_session.pop_all()
        return session


def _resolved(source: Any, length: int | None) -> Resolved:
    place = place_of(os.fsdecode(source)) if isinstance(source, str | os.PathLike) else None
    if place is not None:
        return handover.resolve(*place, length=length)
    resolved = resolve(source, length=length)
    if isinstance(resolved.spec, FunctionSpec):
        resolved.close()
        raise UsageError(
            "a function as source of memory that is registered already",
            cause="it would have to be loaded before anybody waits for it",
            cure="use lazy(), or a file, a buffer or a snapshot",
        )
    return resolved


def _attach(request: Request, uffd: int, resolved: Resolved) -> messages.Attach:
    try:
        geometry = checked(
            [Region(*each) for each in request.regions], request.page_size, _MOST_REGIONS
        )
        _fits(geometry, resolved)
        return asked.asked_for(
            request.process,
            geometry,
            uffd,
            resolved.spec,
            request.policy or LAZY,
            has_poison=_poison(),
        )
    except (RefusedError, BadMessageError) as error:
        raise UsageError(error.what, cause=error.cause, cure=error.cure) from None


def _fits(geometry: Geometry, resolved: Resolved) -> None:
    length = resolved.spec.length
    if geometry.length != round_up(length, geometry.page_size):
        raise UsageError(
            "regions that are not those of the source",
            cause=f"they show {geometry.length} bytes, and the source has {length}",
            cure="pass length=, or other offsets",
        )


def _poison() -> bool:
    try:
        return Feature.POISON in offer()[0]
    except UserfaultError:
        return False


def _readable(fd: int, timeout_s: float | None, *others: socket.socket) -> bool:
    """Wait until `fd` is readable or one of `others` hangs up; whether `fd` is readable."""
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    for each in others:
        poll.register(each, 0)
    ready = poll.poll(None if timeout_s is None else max(timeout_s, 0) * 1000)
    return any(each == fd for each, _ in ready)
