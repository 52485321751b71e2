"""The other workers of a daemon, each with a family of its own: what is said between them.

Packets on a socket between each two, which outlives the workers at its ends (both families keep
theirs).  A connection is passed on with its message unread, so nothing of it is on the way but what
the kernel holds: a worker that has taken it and is killed leaves it to its successor, as one that
it had accepted (`linux.accepted`).  What a worker had asked for is lost with it, as what the one
that is asked was about to answer; so it is asked again.
"""

from __future__ import annotations

import array
import contextlib
import functools
import itertools
import os
import socket
import time
from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from userfault.linux import pidfd
from userfault.linux.pidfd import close_all
from userfault.pager.drivers.processes.say import say
from userfault.pager.drivers.processes.watching import Loop

_MOST = 128 << 10  # bytes of a packet: a control request has half of that at most
_FDS = 8
_AGAIN_S = 2.0
_TRIES = 3


class Passed(msgspec.Struct, tag=True):
    """A connection that came by `door`.  `again`: it may be there already.  `back`: whoever it was
    passed to does not know the door."""

    door: str
    again: bool = False
    back: bool = False


class Asked(msgspec.Struct, tag=True):
    """Carry out a command of the control socket, with its descriptors."""

    serial: int
    command: str
    arguments: Any


class Answered(msgspec.Struct, tag=True):
    """Its answer: in the memory that comes along, since it may be long."""

    serial: int


class Admitted(msgspec.Struct, tag=True):
    """A process for which an image was chosen is served."""

    pid: int


Packet = Passed | Asked | Answered | Admitted
Answer = dict[str, Any]

_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Packet)


class _Question:
    """Asked of all others at once.  `then`: hears the answers by place; {} of one who is stuck."""

    def __init__(
        self, asked: Asked, fds: list[int], of: set[int], then: Callable[[dict[int, Answer]], None]
    ) -> None:
        self.asked = asked
        self.fds = fds
        self.left = of
        self.then = then
        self.answers: dict[int, Answer] = {}
        self.tries = _TRIES
        self.again_at = 0.0


class Neighbours:
    """`channels`: the sockets to them, by place, which stay the caller's.

    `carry_out`: a command that another one asks for, with descriptors; its answer.  `passed`: takes
    a connection (its descriptor, whose it was, the packet).  `admitted`: a process is served.
    """

    def __init__(
        self,
        loop: Loop,
        channels: dict[int, int],
        *,
        carry_out: Callable[[str, Any, list[int]], Answer],
        passed: Callable[[int, int, Passed], None],
        admitted: Callable[[int], None],
    ) -> None:
        self._loop = loop
        self._channels: dict[int, socket.socket] = {}
        self._carry_out = carry_out
        self._passed = passed
        self._admitted = admitted
        self._questions: dict[int, _Question] = {}
        self._serials = itertools.count(time.monotonic_ns())  # never those of a worker before
        for place, fd in channels.items():
            channel = self._channels[place] = socket.socket(fileno=os.dup(fd))
            loop.watch(channel.fileno(), functools.partial(self._came, place))

    @property
    def alive(self) -> list[int]:
        """Their places: those that have not ended."""
        return list(self._channels)

    def send(self, place: int, packet: Packet, fds: Sequence[int] = ()) -> bool:
        """Whether it was taken; without waiting."""
        channel = self._channels.get(place)
        if channel is None:
            return False
        data = _encoder.encode(packet)
        flags = socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL
        rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))
        try:
            return bool(channel.sendmsg([data], [rights] if fds else [], flags))
        except BrokenPipeError:
            self._ended(place)
            return False
        except OSError:
            return False

    def ask(
        self,
        command: str,
        arguments: Any,
        fds: Sequence[int],
        then: Callable[[dict[int, Answer]], None],
    ) -> None:
        """All of them; `fds` are the caller's.  Raises OSError where there are no descriptors."""
        asked = Asked(next(self._serials), command, arguments)
        with contextlib.ExitStack() as undo:
            held = []
            for fd in fds:
                held.append(os.dup(fd))
                undo.callback(os.close, held[-1])
            undo.pop_all()
        question = _Question(asked, held, set(self._channels), then)
        self._questions[asked.serial] = question
        self._loop.timers[self] = None
        self._put(question)

    def _put(self, question: _Question) -> None:
        question.tries -= 1
        question.again_at = time.monotonic() + _AGAIN_S
        for place in list(question.left):
            self.send(place, question.asked, question.fds)

    def next_time(self) -> float | None:
        """When to ask again."""
        return min((each.again_at for each in self._questions.values()), default=None)

    def tick(self, now: float) -> None:
        """Ask those again who have not answered; do without them after some tries."""
        for question in list(self._questions.values()):
            if now < question.again_at:
                continue
            if question.tries:
                self._put(question)
            else:
                question.answers.update((place, {}) for place in question.left)
                self._answered(question)

    def _answered(self, question: _Question) -> None:
        del self._questions[question.asked.serial]
        close_all(question.fds)
        question.then(question.answers)

    def _came(self, place: int) -> None:
        try:
            data, fds, lost, _ = pidfd.receive(
                self._channels[place], _MOST, _FDS, flags=socket.MSG_DONTWAIT
            )
        except BlockingIOError:
            return
        except OSError:
            data, fds, lost = b"", [], False
        if not data:
            self._ended(place)
            return
        try:
            packet = _decoder.decode(data)
            if lost:
                say("a packet of another worker has lost descriptors: none is left here")
            elif isinstance(packet, Passed):
                self._passed(fds.pop(0), place, packet)
            elif isinstance(packet, Asked):
                self._answer(place, packet, fds)
            elif isinstance(packet, Answered):
                self._note(place, packet, fds[0])
            else:
                self._admitted(packet.pid)
        finally:
            close_all(fds)

    def _answer(self, place: int, asked: Asked, fds: list[int]) -> None:
        answer = msgspec.msgpack.encode(self._carry_out(asked.command, asked.arguments, fds))
        held = os.memfd_create("userfault-answer", os.MFD_CLOEXEC)
        try:
            with open(held, "wb", closefd=False) as file:
                file.write(answer)
            self.send(place, Answered(asked.serial), [held])
        finally:
            os.close(held)

    def _note(self, place: int, packet: Answered, held: int) -> None:
        question = self._questions.get(packet.serial)
        if question is None or place not in question.left:
            return
        answer = os.pread(held, os.fstat(held).st_size, 0)
        question.answers[place] = msgspec.msgpack.decode(answer)
        question.left.discard(place)
        if not question.left:
            self._answered(question)

    def _ended(self, place: int) -> None:
        """All of its family: its clients have ended, or needed nobody."""
        channel = self._channels.pop(place, None)
        if channel is None:
            return
        self._loop.forget(channel.fileno())
        channel.close()
        for question in list(self._questions.values()):
            question.left.discard(place)
            if not question.left and question.asked.serial in self._questions:
                self._answered(question)

    def retire(self) -> None:
        """This worker has nobody left: take what is on its way to it, and nothing more after."""
        for place, channel in list(self._channels.items()):
            with contextlib.suppress(OSError):
                channel.shutdown(socket.SHUT_RD)
            while place in self._channels:
                self._came(place)

    def close(self) -> None:
        """Hear nothing more."""
        for channel in self._channels.values():
            self._loop.forget(channel.fileno())
            channel.close()
        self._channels.clear()
