"""Lines: ports of a guest that each carry the bytes of one agent, and nothing else.

A line is used again after its agent has ended.  What is left in it then, at either end, is thrown
away up to a token that both ends wait for before the next agent starts.
"""

from __future__ import annotations

import contextlib
import os
import socket
import struct

from userfault.check.live.link import Buffered

TOKEN = 16
WISH = struct.Struct(f"=I{TOKEN}s")  # of a SPAWN: the number of the guest's port, the token


class Line(Buffered):
    """Our end of such a port.  Up to the token it is its own; then a channel uses `socket`."""

    def __init__(self, number: int, connection: socket.socket) -> None:
        super().__init__(connection)
        self.number = number
        self.socket = connection
        self._token = b""

    def ask(self) -> bytes:
        """Begin anew: send a token; what the guest is to know of it."""
        self._token = os.urandom(TOKEN)
        self._received.clear()
        self.queue(self._token)
        return WISH.pack(self.number, self._token)

    def began(self) -> bool:
        """Whether the token has come back: what comes from here on is the new agent's."""
        if not self._token:
            return True
        self.collect()
        place = self._received.find(self._token)
        if place < 0:
            del self._received[: -TOKEN + 1]
            return False
        del self._received[: place + TOKEN]
        self._token = b""
        return True

    def rest(self) -> bytes:
        """All that has arrived."""
        with contextlib.suppress(OSError):
            self.collect()
        data = bytes(self._received)
        self._received.clear()
        return data
