"""Which of a daemon's workers serves a client.

All listen on the same sockets, and whoever is awake first accepts.  If another one has fewer
clients, the connection is passed on to it, with its message unread.  Memory that several processes
map has to be served from one state: so it has a home, the same for each of them, told by which
memory it is.

A worker may be killed in the middle of passing one on.  Either it was sent or it was not, and its
successor cannot know: it sends it again, to the same one, who knows a connection that it has
already by its inode.
"""

from __future__ import annotations

import os
import socket
import zlib

from userfault.serve.board import Board
from userfault.serve.neighbours import Neighbours, Passed


class Spread:
    """Over this worker and its `neighbours`."""

    def __init__(self, board: Board, neighbours: Neighbours) -> None:
        self.board = board
        self._neighbours = neighbours
        self._was_moving = board.moving  # when a worker before this one was killed

    def better(self) -> int | None:
        """Who has fewer clients than this worker, and fewest; None: nobody has."""
        others = self._neighbours.alive
        if not others:
            return None
        load, place = min((self.board.load(each), each) for each in others)
        return place if load < self.board.load(self.board.place) else None

    def home(self, backing: str) -> int | None:
        """Where memory is served that several processes may map; None: here."""
        if not backing:
            return None
        count = self.board.count
        alive = {self.board.place, *self._neighbours.alive}
        first = zlib.crc32(backing.encode()) % count
        place = next(each % count for each in range(first, first + count) if each % count in alive)
        return place if place != self.board.place else None

    def pass_on(
        self, channel: socket.socket, door: str, place: int, *, again: bool = False
    ) -> bool:
        """Have another worker serve it: whether it does; then the caller closes it, and says
        `moved`."""
        self.board.begin_to_move(place, os.fstat(channel.fileno()).st_ino)
        if self._neighbours.send(place, Passed(door, again=again), [channel.fileno()]):
            self.board.sent(place)
            return True
        self.board.moved()
        return False

    def moved(self) -> None:
        """What was passed on is closed here, and no record names it."""
        self.board.moved()

    def was_passing(self, fd: int) -> int | None:
        """To whom a worker before this one was passing this connection on."""
        if self._was_moving is None or os.fstat(fd).st_ino != self._was_moving[1]:
            return None
        return self._was_moving[0]
