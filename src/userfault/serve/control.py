"""The control socket: a request a line, an answer a line, in JSON.

`{"version": 1, "command": "sessions"}` is answered by `{"version": 1, "ok": true, ...}` or by
`{"version": 1, "ok": false, "what": ..., "cause": ..., "cure": ...}`.  Descriptors that belong to a
request come with its bytes (SCM_RIGHTS, unix(7)).  Requests may be repeated:
who gets no answer (a worker was killed in the middle) asks again.
"""

from __future__ import annotations

import contextlib
import socket
from typing import Any, Protocol

import msgspec

from userfault.linux import pidfd
from userfault.linux.pidfd import close_all
from userfault.pager.drivers.clients.client import Client
from userfault.pager.drivers.clients.clients import Clients
from userfault.serve import records
from userfault.serve.commands import EVERYWHERE, Commands
from userfault.serve.merging import merged
from userfault.serve.neighbours import Neighbours
from userfault.serve.peers import RefusedError

VERSION = 1
FAREWELL = b'{"version": 1, "ok": true, "ended": true}\n'  # to the command in front, unasked
_MOST = 64 << 10  # bytes of a request
_FDS = 64  # descriptors that come with it


class Request(msgspec.Struct):
    """A line.  What a command takes beside its name stands in the same object."""

    version: int
    command: str
    arguments: dict[str, Any] = {}


class Host(Protocol):
    """The daemon."""

    commands: Commands
    told: records.Daemon
    neighbours: Neighbours


_decoder = msgspec.json.Decoder(Request)


class ControlTalk:
    """What is said with one connection."""

    edge = foreign = False

    def __init__(self, client: Client, clients: Clients, host: Host) -> None:
        self._client = client
        self._clients = clients
        self._host = host
        self._came = bytearray()
        self._fds: list[int] = []  # that belong to the line which is coming
        self._lines: list[bytes] = []  # that came while others are asked
        self._asking = False
        self._closed = False
        client.channel.setblocking(False)

    def request(self) -> None:
        """Something came: answer each line of it."""
        try:
            flags = socket.MSG_DONTWAIT
            data, fds, lost, _ = pidfd.receive(self._client.channel, _MOST, _FDS, flags=flags)
        except BlockingIOError:
            return
        except OSError:
            data, fds, lost = b"", [], False
        self._fds += fds
        self._came += data
        *lines, rest = self._came.split(b"\n")
        self._came = rest
        self._lines += map(bytes, lines)
        self._go_on()
        if not data or lost or len(rest) > _MOST or len(self._fds) > _FDS:
            self._clients.hang_up(self._client, quit_now=True)

    def resumed(self) -> None:
        """Half a request is lost with the worker that had it: whoever asked asks again."""

    def close(self) -> None:
        """Nothing is left to be told."""
        close_all(self._fds)
        self._fds = []
        self._closed = True

    def _go_on(self) -> None:
        """Answer the lines that are there, one after the other."""
        while self._lines and not self._asking and not self._closed:
            self._carry_out(self._lines.pop(0))

    def _carry_out(self, line: bytes) -> None:
        fds, self._fds = self._fds, []
        with contextlib.ExitStack() as end:
            end.callback(close_all, fds)
            try:
                request = _read(line)
            except RefusedError as error:
                what = {"what": error.what, "cause": error.cause, "cure": error.cure}
                self._answer({"ok": False, **what})
                return
            self._everywhere(request, fds)

    def _everywhere(self, request: Request, fds: list[int]) -> None:
        """By this worker, and by all others where it concerns them: one answer."""
        host, name = self._host, request.command
        own: dict[str, Any] = {}

        def then(others: dict[int, dict[str, Any]]) -> None:
            self._asking = False
            if not self._closed:
                self._answer(merged(name, {host.told.place: own, **others}))
                self._go_on()

        alone = name not in EVERYWHERE or not host.neighbours.alive
        if not alone:
            self._asking = True
            host.neighbours.ask(name, request.arguments, fds, then)
        own |= host.commands.answer(name, request.arguments, fds)
        if alone:
            then({})

    def _answer(self, answer: dict[str, Any]) -> None:
        try:
            data = msgspec.json.encode({"version": VERSION, **answer}) + b"\n"
            sent = self._client.channel.send(data, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
        except OSError:  # it does not read, or has gone
            sent = 0
        if sent < len(data):
            self._clients.hang_up(self._client, quit_now=True)


def _read(line: bytes) -> Request:
    """Raises RefusedError."""
    try:
        request = _decoder.decode(line)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise RefusedError(
            "a request that cannot be read",
            cause=str(error),
            cure='write {"version": 1, "command": "sessions"}, and a line feed',
        ) from None
    if request.version != VERSION:
        raise RefusedError(
            f"version {request.version} of the control protocol",
            cause=f"this daemon speaks version {VERSION}",
            cure="use a client of its release",
        )
    return request
