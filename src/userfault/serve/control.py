"""The control socket: a request a line, an answer a line, in JSON.

`{"version": 1, "command": "sessions"}` is answered by `{"version": 1, "ok": true, ...}` or by
`{"version": 1, "ok": false, "what": ..., "cause": ..., "cure": ...}`.  Descriptors that belong to a
request come with its bytes (SCM_RIGHTS, unix(7)).  Requests may be repeated:
who gets no answer (a worker was killed in the middle) asks again.
"""

from __future__ import annotations

import socket
from typing import Any, Protocol

import msgspec

from userfault.kernel.errors import UserfaultError
from userfault.linux import pidfd
from userfault.linux.pidfd import close_all
from userfault.pager.drivers.clients.client import Client
from userfault.pager.drivers.clients.clients import Clients
from userfault.serve.commands import Commands
from userfault.serve.peers import RefusedError

VERSION = 1
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
        for line in lines:
            self._answer(bytes(line))
        if not data or lost or len(rest) > _MOST or len(self._fds) > _FDS:
            self._clients.hang_up(self._client, quit_now=True)

    def resumed(self) -> None:
        """Half a request is lost with the worker that had it: whoever asked asks again."""

    def close(self) -> None:
        """Nothing is left to be told."""
        close_all(self._fds)
        self._fds = []

    def _answer(self, line: bytes) -> None:
        try:
            answer = {"version": VERSION, "ok": True, **self._carried_out(line)}
        except (UserfaultError, OSError) as raised:
            error = raised if isinstance(raised, UserfaultError) else UserfaultError(str(raised))
            answer = {
                "version": VERSION,
                "ok": False,
                "what": error.what,
                "cause": error.cause,
                "cure": error.cure,
            }
        try:
            data = msgspec.json.encode(answer) + b"\n"
            sent = self._client.channel.send(data, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
        except OSError:  # it does not read, or has gone
            sent = 0
        if sent < len(data):
            self._clients.hang_up(self._client, quit_now=True)

    def _carried_out(self, line: bytes) -> dict[str, Any]:
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
        fds, self._fds = self._fds, []
        try:
            return self._host.commands.carry_out(request.command, request.arguments, fds)
        finally:
            close_all(fds)
