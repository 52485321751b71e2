"""The control socket: a request a line, an answer a line, in JSON.

`{"version": 1, "command": "sessions"}` is answered by `{"version": 1, "ok": true, ...}` or by
`{"version": 1, "ok": false, "what": ..., "cause": ..., "cure": ...}`.  Requests may be repeated:
who gets no answer (a worker was killed in the middle) asks again.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Any, Protocol

import msgspec

from userfault.kernel.errors import UserfaultError
from userfault.pager.drivers.clients.client import Client
from userfault.pager.drivers.clients.clients import Clients
from userfault.serve.peers import RefusedError

VERSION = 1
_MOST = 64 << 10  # bytes of a request


class Request(msgspec.Struct):
    """A line.  What a command takes beside its name stands in the same object."""

    version: int
    command: str
    arguments: dict[str, Any] = {}


class Host(Protocol):
    """The daemon."""

    commands: dict[str, Callable[[dict[str, Any]], dict[str, Any]]]


_decoder = msgspec.json.Decoder(Request)


class ControlTalk:
    """What is said with one connection."""

    edge = foreign = False

    def __init__(self, client: Client, clients: Clients, host: Host) -> None:
        self._client = client
        self._clients = clients
        self._host = host
        self._came = bytearray()
        client.channel.setblocking(False)

    def request(self) -> None:
        """Something came: answer each line of it."""
        try:
            data = self._client.channel.recv(_MOST)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._clients.hang_up(self._client, quit_now=True)
            return
        self._came += data
        *lines, rest = self._came.split(b"\n")
        self._came = rest
        for line in lines:
            self._answer(bytes(line))
        if len(rest) > _MOST:
            self._clients.hang_up(self._client, quit_now=True)

    def resumed(self) -> None:
        """Half a request is lost with the worker that had it: whoever asked asks again."""

    def close(self) -> None:
        """Nothing is left to be told."""

    def _answer(self, line: bytes) -> None:
        try:
            answer = {"version": VERSION, "ok": True, **self._carried_out(line)}
        except UserfaultError as error:
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
        if request.command not in self._host.commands:
            raise RefusedError(
                f"there is no command {request.command!r}",
                cause="",
                cure="use one of " + ", ".join(sorted(self._host.commands)),
            )
        return self._host.commands[request.command](request.arguments)
