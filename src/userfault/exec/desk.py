"""The command's side of all conversations: who asks, what is served, and what is needed no more."""

from __future__ import annotations

import contextlib
import functools
import os
import select
import socket
import time
from collections.abc import Callable

import msgspec

from userfault.api.pager import Pager
from userfault.api.serving import Session
from userfault.exec.giving import Given, Giver
from userfault.exec.words import BYTES, STEPS, Message, What, decode
from userfault.kernel.errors import PagerError, UserfaultError
from userfault.kernel.explain import explain
from userfault.linux import pidfd
from userfault.linux.pidfd import close_all
from userfault.linux.refused import cause_of
from userfault.pager.core.states import REMOVED
from userfault.serve.peers import RefusedError, peer

_TICK_S = 1.0  # and an event that was raised just before the end is read by then
_FDS = 4

Tell = Callable[[str], None]


class Asking(msgspec.Struct, eq=False):
    """A library that asks: its process, and what it was told to give."""

    channel: socket.socket
    process: int
    pid: int
    given: Given | None = None

    def close(self) -> None:
        """Hang up."""
        self.channel.close()
        os.close(self.process)
        if self.given is not None:
            self.given.close()


class Shown(msgspec.Struct, eq=False):
    """A mapping that is served.  `inode`: of its memory.  `since`: when it was seen to need
    nothing."""

    session: Session
    given: Given
    inode: int
    since: float = 0.0


class Desk:
    """Serves what comes by `listener`.  `tell`: hears what fails."""

    def __init__(self, listener: socket.socket, giver: Giver, pager: Pager, tell: Tell) -> None:
        self._listener = listener
        self._giver = giver
        self._pager = pager
        self._tell = tell
        self._epoll = select.epoll()
        self._handlers: dict[int, Callable[[], None]] = {}
        self._asking: dict[int, Asking] = {}
        self._shown: list[Shown] = []
        self._tick_at = 0.0
        self._shut = False
        self.served = 0  # mappings, up to now
        self.failed = 0
        self.watch(listener.fileno(), self._somebody)

    def processes(self) -> set[int]:
        """Those that are served."""
        return {shown.session.pid for shown in self._shown}

    def watch(self, fd: int, handler: Callable[[], None], *, hang_up: bool = False) -> None:
        """Call `handler` when something comes, or (`hang_up`) only when the other end has gone."""
        self._handlers[fd] = handler
        self._epoll.register(fd, 0 if hang_up else select.EPOLLIN)

    def forget(self, fd: int) -> None:
        """No more of it."""
        if self._handlers.pop(fd, None) is not None:
            self._epoll.unregister(fd)

    def serve(self) -> None:
        """Wait for something to happen, for a second at most, and see to it."""
        for fd, _ in self._epoll.poll(_TICK_S):
            handler = self._handlers.get(fd)
            if handler is not None:
                handler()
        now = time.monotonic()
        if now >= self._tick_at:
            self._tick_at = now + _TICK_S
            if self._shut:
                self._shut = False
                self.watch(self._listener.fileno(), self._somebody)
            for shown in list(self._shown):
                self._look_at(shown, now)

    def close(self) -> None:
        """Let go of everything."""
        for asking in self._asking.values():
            asking.close()
        for shown in self._shown:
            shown.session.close()
        self._asking.clear()
        self._shown.clear()
        self._epoll.close()

    # --- conversations ---------------------------------------------------------------------------

    def _somebody(self) -> None:
        try:
            channel, _ = self._listener.accept()
        except OSError as error:  # no descriptor is left: who comes waits until the next tick
            self._tell(f"nobody is let in for a while: {cause_of(error)}")
            self.forget(self._listener.fileno())
            self._shut = True
            return
        try:
            found = peer(channel)
        except RefusedError as error:
            channel.close()
            self._tell(str(error))
            return
        asking = Asking(channel, found.process, found.pid)
        self._asking[channel.fileno()] = asking
        self.watch(channel.fileno(), functools.partial(self._said, asking))

    def _said(self, asking: Asking) -> None:
        """A message came; one that cannot be answered well is answered by FAILED."""
        try:
            data, fds, _, _ = pidfd.receive(asking.channel, BYTES + 1, _FDS)
        except OSError:
            data, fds = b"", []
        if not data:
            self._hang_up(asking)
            return
        with contextlib.ExitStack() as undo:
            undo.callback(close_all, fds)
            try:
                answer, memory = self._answer(asking, decode(data), fds)
            except (UserfaultError, OSError, ValueError, IndexError) as error:
                answer, memory = self._refusal(asking, error), -1
            with contextlib.suppress(OSError):  # it has ended
                passed = [memory] if memory >= 0 else []
                socket.send_fds(asking.channel, [answer.encode()], passed)

    def _answer(self, asking: Asking, told: Message, fds: list[int]) -> tuple[Message, int]:
        if told.what == What.ASK and asking.given is None:
            answer, asking.given = self._giver.begin(told)
            return answer, asking.given.fd if asking.given else -1
        given = asking.given
        if told.what == What.FAILED and given is not None:
            raise _failed(told)
        if told.what != What.GIVEN or given is None or len(fds) != 1:
            raise PagerError(
                "a program that says what makes no sense", cause=f"message {told.what}", cure=""
            )
        session = self._giver.take(self._pager, given, told, fds[0], asking.pid)
        inode = os.fstat(given.fd).st_ino if given.fd >= 0 else 0
        given.file.writers += given.kept
        shown = Shown(session, given, inode)
        self._shown.append(shown)
        self.served += 1
        self.watch(session.fileno(), functools.partial(self._ended, shown), hang_up=True)
        return Message(What.SERVED, length=given.ask.length, offset=given.ask.offset), -1

    def _refusal(self, asking: Asking, error: Exception) -> Message:
        """What is told.  (The library knows for which files their own mapping will do.)"""
        self.failed += 1
        given = asking.given
        text = cause_of(error) if isinstance(error, OSError) else str(error)
        itself = given is not None and given.file.itself
        after = "it is mapped as ever" if itself else "mmap(2) fails there with EIO"
        name = given.file.path if given is not None else "a mapping"
        self._tell(f"process {asking.pid}: {name} is not lazy: {text}; {after}")
        return Message(What.FAILED)

    def _hang_up(self, asking: Asking) -> None:
        self.forget(asking.channel.fileno())
        del self._asking[asking.channel.fileno()]
        asking.close()

    # --- what is needed no more ------------------------------------------------------------------

    def _ended(self, shown: Shown) -> None:
        """Its process has ended, and every child that has it."""
        self._let_go(shown)

    def _look_at(self, shown: Shown, now: float) -> None:
        """Whether nothing of it can be waited for any more, and has not been for a while."""
        session = shown.session
        try:
            needed = not (session.finished or (shown.given.budget.evicts and self._unmapped(shown)))
            needed = needed or session.answer().contexts > 1  # children of a fork have it
        except PagerError:
            needed = True  # it has ended, which is told in another way
        if needed:
            shown.since = 0.0
        elif not shown.since:
            shown.since = now
        elif now - shown.since >= _TICK_S:
            self._let_go(shown)

    def _unmapped(self, shown: Shown) -> bool:
        """Of memory with a budget no finish is told."""
        if shown.session.count(REMOVED) < shown.session.pages:
            return False
        try:
            with open(f"/proc/{shown.session.pid}/maps", "rb") as file:
                return not any(line.split()[4] == b"%d" % shown.inode for line in file)
        except OSError:
            return False

    def _let_go(self, shown: Shown) -> None:
        self.forget(shown.session.fileno())
        self._shown.remove(shown)
        shown.given.file.writers -= shown.given.kept
        shown.session.close()


def _failed(told: Message) -> PagerError:
    """What a call in the program met."""
    step = STEPS[told.step] if told.step < len(STEPS) else "a call"
    found = explain(step, told.error)
    cause = f"{os.strerror(told.error)}; {found.cause}" if found.cause else os.strerror(told.error)
    return PagerError(f"{step} is refused in the program", cause=cause, cure=found.cure)
