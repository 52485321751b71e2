"""Where a JSON text ends that comes in pieces on a stream, without a length before it."""

from __future__ import annotations

import re

from userfault.wire.errors import BadMessageError

_MEANS = re.compile(rb'[\[\]{}"\\]')
_SPACE = b" \t\r\n"
_DEPTH = 16  # what is nested deeper is no message of any protocol that we know


class JsonText:
    """One array or object.  `data` is all that came so far, `end` where the text ends in it (0: it
    has not come to its end).  What comes behind it is kept and not looked at."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._depth = 0
        self._in_string = False
        self._seen = 0
        self.data = bytearray()
        self.end = 0

    def feed(self, piece: bytes) -> bool:
        """More bytes: whether the text is whole.  Raises BadMessageError for what is no such text,
        or is longer than allowed: at the first byte that tells."""
        room = self._most - len(self.data)
        self.data += piece[: max(room, 0)]
        if not self.end:
            self._scan()
        if not self.end and len(piece) > room:
            raise BadMessageError(
                "the message is too long",
                cause=f"it has more than {self._most} bytes",
                cure="raise the limit on messages, if the client is a right one",
            )
        return bool(self.end)

    def _scan(self) -> None:
        start = bytes(self.data[:64]).lstrip(_SPACE)[:1]
        if start and start not in (b"[", b"{"):
            raise BadMessageError(
                "the message is not JSON",
                cause=f"it begins with byte {start[0]:#04x}, not with [ or {{",
                cure="look which program connects to this socket",
            )
        at = self._seen
        while found := _MEANS.search(self.data, at):
            at = found.end()
            mark = found.group()
            if mark == b"\\":
                if at >= len(self.data):  # what it escapes has not come yet
                    at = found.start()
                    break
                at += self._in_string
            elif mark == b'"':
                self._in_string = not self._in_string
            elif not self._in_string:
                self._depth += 1 if mark in b"[{" else -1
                if self._depth <= 0:
                    self.end = at
                    break
                if self._depth > _DEPTH:
                    raise BadMessageError(
                        "the message is nested too deeply",
                        cause=f"more than {_DEPTH} arrays and objects in each other",
                        cure="look which program connects to this socket",
                    )
        else:
            at = len(self.data)
        self._seen = at
