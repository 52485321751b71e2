"""Sockets on which clients come: who is let in, and when nobody is for a while."""

from __future__ import annotations

import contextlib
import errno
import functools
import os
import resource
import socket
import time

from userfault.kernel.errors import UserfaultError
from userfault.pager.drivers.clients.clients import Clients
from userfault.pager.drivers.processes.say import say
from userfault.pager.drivers.processes.watching import Loop
from userfault.serve.peers import RefusedError, admit, peer
from userfault.serve.records import Door, Limits
from userfault.serve.spreading import Spread
from userfault.serve.turning_away import TurningAway
from userfault.serve.waiting import Waiting

CONTROL, NATIVE = "control", "native"
_PAUSE_S = 0.5  # when nothing is left to accept with
_EACH = 16  # descriptors that a client takes at most before it is served
_AT_ONCE = 16  # connections accepted before faults are looked at again


class Doors:
    """Accepts for `clients`.  `waiting`: who was let in and has not said yet what it wants."""

    def __init__(
        self, loop: Loop, clients: Clients, limits: Limits, away: TurningAway, spread: Spread
    ) -> None:
        self._loop = loop
        self._spread = spread
        self._clients = clients
        self._limits = limits
        self.waiting = Waiting(loop.timers, self._room)
        self._sockets: dict[str, tuple[socket.socket, Door]] = {}
        self._shut: set[str] = set()  # for now: no place, or no descriptor left
        self._again_at: float | None = None
        self._away = away
        self._told = False  # that nobody is let in
        self.accepted = 0

    def open(self, door: Door, fd: int) -> None:
        """Accept on listening socket `fd`, which stays the caller's."""
        listener = socket.socket(fileno=os.dup(fd))
        listener.setblocking(False)
        self._sockets[door.name] = listener, door
        self._loop.watch(listener.fileno(), functools.partial(self._somebody, door.name))

    def shut(self, name: str) -> None:
        """Nobody comes by this one any more.

        Who waits in its queue has perhaps sent everything, and would be lost with it: each of them
        is let in, or turned away.  (Not where the socket is somebody else's, who listens on.)
        """
        listener, door = self._sockets.pop(name)
        if name not in self._shut:
            self._loop.forget(listener.fileno())
        self._shut.discard(name)
        with listener:
            if any(door.place):
                self._empty(listener, door)

    def _empty(self, listener: socket.socket, door: Door) -> None:
        """Take everybody out of its queue; who connects from now on finds nobody (ECONNREFUSED)."""
        with contextlib.suppress(OSError):
            listener.shutdown(socket.SHUT_RD)
            while True:
                full = self._full(door, listener)
                channel, _address = listener.accept()
                if full:
                    cause = f"{full}, and nobody is let in any more"
                    self._turn_away(channel, door, RefusedError("a client too many", cause=cause))
                else:
                    self._let_in(channel, door)

    def __bool__(self) -> bool:
        return bool(self._sockets)

    def door(self, name: str) -> Door | None:
        """The one of that name."""
        found = self._sockets.get(name)
        return found[1] if found else None

    def _somebody(self, name: str) -> None:
        listener, door = self._sockets[name]
        for _ in range(_AT_ONCE):
            if len(self.waiting) >= self._limits.waiting and door.protocol != CONTROL:
                self._rest(name, None)
                return
            if full := self._full(door, listener):
                self._no_more(name, full)
                return
            try:
                channel, _address = listener.accept()
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno in (errno.ECONNABORTED, errno.EINTR):
                    continue
                self._no_more(name, os.strerror(error.errno or 0))
                return
            if door.protocol == CONTROL or not self._passed_on(channel, door):
                self._let_in(channel, door)

    def _passed_on(self, channel: socket.socket, door: Door) -> bool:
        """Whether another worker, which has fewer clients, serves it."""
        place = self._spread.better()
        if place is None or not self._spread.pass_on(channel, door.name, place):
            return False
        channel.close()
        self._spread.moved()
        return True

    def _full(self, door: Door, listener: socket.socket) -> str:
        """Why nobody more can be served now; "" where there is room.

        Who would be refused for that has handed over its memory perhaps, and could only be ended.
        """
        limits, board = self._limits, self._spread.board
        if door.protocol != CONTROL and board.all_clients() >= limits.clients:
            return f"{limits.clients} clients are served, which is the most"
        try:
            lowest = os.dup(listener.fileno())  # the kernel gives the lowest out
        except OSError:
            return "no descriptor is left"
        os.close(lowest)
        most, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        needed = _EACH * (1 + len(self.waiting))  # who was let in has still to be served
        return "" if lowest + needed < most else f"{most} descriptors are allowed (LimitNOFILE=)"

    def _no_more(self, name: str, why: str) -> None:
        """For a while; told once, until somebody was let in again."""
        if not self._told:
            self._told = True
            say(f"nobody is let in: {why}; who comes waits")
        self._rest(name, time.monotonic() + _PAUSE_S)

    def adopt(self, fd: int, door: Door) -> None:
        """A connection that a worker before this one has accepted, or was passing on."""
        channel = socket.socket(fileno=fd)
        place = self._spread.was_passing(fd)
        if place is not None and self._spread.pass_on(channel, door.name, place, again=True):
            channel.close()
        else:
            self._let_in(channel, door)

    def passed(self, fd: int, door: Door, *, again: bool) -> None:
        """A connection that another worker passes on.  `again`: it may be here already."""
        if again and self._has(os.fstat(fd).st_ino):
            os.close(fd)
        else:
            self._let_in(socket.socket(fileno=fd), door)

    def turn_away(self, fd: int, door: Door) -> None:
        """A connection by a door that is not there any more."""
        error = RefusedError("a client too late", cause=f"{door.name} was shut a moment ago")
        self._turn_away(socket.socket(fileno=fd), door, error)

    def _has(self, inode: int) -> bool:
        clients = self._clients.book.clients.values()
        return any(os.fstat(each.channel.fileno()).st_ino == inode for each in clients)

    def _let_in(self, channel: socket.socket, door: Door) -> None:
        with contextlib.ExitStack() as undo:
            undo.callback(channel.close)
            process = -1
            try:
                found = peer(channel)
                process = found.process
                undo.callback(os.close, process)
                admit(door.who, found)
                self._room_for(found.pid)
                name = f"{door.protocol} {found.pid}: "
                client = self._clients.add(
                    channel, process, name, protocol=door.protocol, door=door.name
                )
            except (UserfaultError, OSError) as error:
                self._refused(channel, door, process, error)
                return
            undo.pop_all()
        self.accepted += 1
        self._told = False
        if client.conversation is not None:
            client.conversation.request()  # what it sent may have come before it was watched

    def _turn_away(self, channel: socket.socket, door: Door, error: UserfaultError) -> None:
        """Without a further look at it."""
        with contextlib.ExitStack() as undo:
            undo.callback(channel.close)
            process = -1
            with contextlib.suppress(UserfaultError, OSError):
                process = peer(channel).process
                undo.callback(os.close, process)
            self._refused(channel, door, process, error)

    def _refused(self, channel: socket.socket, door: Door, process: int, error: Exception) -> None:
        """Who speaks our own protocol, or gives orders, notices the end of its connection."""
        if door.protocol in (CONTROL, NATIVE):
            self._away.tell(f"{door.name}: ", error)
        else:
            self._away.turn(f"{door.name}: ", error, channel, process)

    def _room_for(self, pid: int) -> None:
        limits = self._limits
        if self.waiting.of(pid) >= limits.waiting_each:
            raise RefusedError(
                f"process {pid} is not served",
                cause=f"{limits.waiting_each} connections of it have not said what they want",
                cure="a client connects once",
            )

    # --- when nobody can be let in ---------------------------------------------------------------

    def _rest(self, name: str, until: float | None) -> None:
        """Who comes waits in the kernel."""
        self._shut.add(name)
        self._loop.forget(self._sockets[name][0].fileno())
        if until is not None:
            self._again_at = until
            self._loop.timers[self] = None

    def _room(self) -> None:
        """There is a place again."""
        if self._shut and self._again_at is None and len(self.waiting) < self._limits.waiting:
            self._reopen()

    def _reopen(self) -> None:
        names, self._shut = self._shut, set()
        for name in names:
            if name in self._sockets:
                handler = functools.partial(self._somebody, name)
                self._loop.watch(self._sockets[name][0].fileno(), handler)

    def next_time(self) -> float | None:
        """When to accept again."""
        return self._again_at

    def tick(self, now: float) -> None:
        """Accept again, if it is time."""
        if self._again_at is not None and now >= self._again_at:
            self._again_at = None
            self._reopen()
