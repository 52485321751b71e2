"""The command by which a VM that asks for its pages is taken on (Cloud Hypervisor).

Whoever restores it has connected to it and opened the image, with rights of its own, and hands all
of that over.  It may ask twice, where a worker was killed in the middle: the token tells.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
from typing import Annotated, Any, Protocol

import msgspec

from userfault.linux.accepted import unix_socket
from userfault.linux.lifeline import LifeLine
from userfault.linux.pidfd import close_all
from userfault.pager.drivers.worker import Worker
from userfault.serve import records
from userfault.serve.cloud_hypervisor import PROTOCOL
from userfault.serve.delivering import IntoMemory, Part
from userfault.serve.exchange import new_file
from userfault.serve.keeping import keep, let_go
from userfault.serve.peers import RefusedError, peer
from userfault.serve.restores import Restores
from userfault.source.spec import Spec

_TOKEN = re.compile(r"[0-9a-f]{32}")
_MOST = 4096
_Number = Annotated[int, msgspec.Meta(ge=0, lt=1 << 53)]


class Begin(msgspec.Struct, forbid_unknown_fields=True):
    """Fields are those of `records.Restore`; `slots` without places.

    Descriptors: the image's, a memfd for each slot, and the `connections`, connected.
    """

    token: str
    spec: Spec
    page_size: _Number
    parts: list[tuple[_Number, _Number]]
    slots: list[tuple[_Number, _Number, _Number]] = []
    connections: Annotated[int, msgspec.Meta(ge=1, le=16)] = 1


class Host(Protocol):
    """The daemon."""

    worker: Worker
    told: records.Daemon
    restores: Restores


def begin(host: Host, request: Begin, fds: list[int]) -> dict[str, Any]:
    """Serve it.  Descriptors that are kept are taken out of `fds`.

    Raises RefusedError, PagerError, OSError.
    """
    _check(host, request, fds)
    told = host.restores.found(request.token)
    channels = [fds.pop() for _ in range(request.connections)][::-1]
    with contextlib.ExitStack() as undo:
        undo.callback(close_all, channels)
        if told is None:
            told = _recorded(host, request, fds)
        try:
            _connect(host, told, channels)
        except BaseException:
            if not any(_is_of(told, each.door) for each in host.worker.book.clients.values()):
                host.restores.forget(told)
            raise
    return {}


def _connect(host: Host, told: records.Restore, channels: list[int]) -> None:
    """Each connection is a client; those taken out of `channels` are theirs."""
    clients = host.worker.clients
    known = {each.door for each in host.worker.book.clients.values()}
    for number in range(len(channels)):
        door = f"{told.token}/{number}"
        if door in known:  # of an earlier try
            continue
        channel = socket.socket(fileno=os.dup(channels[number]))
        with contextlib.ExitStack() as undo:
            undo.callback(channel.close)
            found = peer(channel)
            undo.callback(os.close, found.process)
            name = f"{PROTOCOL} {found.pid}: "
            client = clients.add(channel, found.process, name, protocol=PROTOCOL, door=door)
            undo.pop_all()
        client.lifeline = LifeLine.armed(signal.SIGKILL, whom=found.pid)
        client.changed()
        host.worker.book.changed(client)
        client.owner.say("asks for its pages")
        if client.conversation is not None:
            client.conversation.request()


def _recorded(host: Host, request: Begin, fds: list[int]) -> records.Restore:
    """Written down, with what is kept for it."""
    kept = host.worker.book.kept
    slots = [(Part(gpa, size, at), -1) for gpa, size, at in request.slots]
    made: list[int] = []
    try:
        if slots:
            made.append(os.memfd_create("userfault-delivered", os.MFD_CLOEXEC))
            os.ftruncate(made[0], IntoMemory.pages(slots, request.page_size))
        made += [new_file() for _ in range(request.connections)]
    except OSError:
        close_all(made)
        raise
    places = [keep(kept, fd) for fd in (*fds, *made)]
    source, *rest = places
    memories, rest = rest[: len(slots)], rest[len(slots) :]
    told = records.Restore(
        token=request.token,
        spec=request.spec,
        source=source,
        page_size=request.page_size,
        parts=tuple(request.parts),
        slots=tuple((*slot, place) for slot, place in zip(request.slots, memories, strict=True)),
        states=rest[0] if slots else -1,
        exchanges=tuple(rest[bool(slots) :]),
    )
    try:
        host.restores.add(told)
    except BaseException:
        host.told.restores.remove(told)
        for place in places:
            let_go(kept, place)
        close_all(made)
        raise
    fds.clear()
    return told


def _check(host: Host, request: Begin, fds: list[int]) -> None:
    size = request.page_size
    parts = [*request.parts, *((gpa, length) for gpa, length, _ in request.slots)]
    offsets = [at for *_, at in request.slots]
    _hold(not host.told.draining, "this daemon is draining", "it takes nobody on any more")
    _hold(bool(_TOKEN.fullmatch(request.token)), "its token", "it is no 32 hexadecimal digits")
    _hold(bool(request.parts) and len(parts) <= _MOST, f"{len(parts)} ranges of memory", "")
    _hold(size >= 4096 and size & (size - 1) == 0, f"pages of {size} bytes", "there are none")
    numbers = [*(number for part in parts for number in part), *offsets]
    _hold(all(each % size == 0 for each in numbers), "its memory", "it is no whole pages")
    _hold(all(length for _, length in parts), "its memory", "a range is empty")
    whole = sum(length for _, length, _ in request.slots)
    most = host.told.limits.memory_bytes
    _hold(whole <= most, f"{whole} bytes of memory", f"{most} are allowed")
    wanted = 1 + len(request.slots) + request.connections
    _hold(len(fds) == wanted, f"{len(fds)} descriptors", f"{wanted} belong to the command")
    room = host.told.limits.clients - len(host.worker.book.clients)
    _hold(room >= request.connections, "as many clients are served as may be", "")
    for fd, (_, length, at) in zip(fds[1:], request.slots, strict=False):
        _hold(os.fstat(fd).st_size >= at + length, "a memfd", "it is too short for its slot")
    for fd in fds[-request.connections :]:
        _hold(_is_connected(fd), "a connection", "it is no connected Unix socket")


def _is_connected(fd: int) -> bool:
    held = unix_socket(fd)
    if held is None:
        return False
    with held:
        if held.getsockopt(socket.SOL_SOCKET, socket.SO_TYPE) != socket.SOCK_STREAM:
            return False
        try:
            held.getpeername()
        except OSError:
            return False
        return True


def _is_of(told: records.Restore, door: str) -> bool:
    return door.startswith(f"{told.token}/")


def _hold(right: bool, what: str, why: str) -> None:
    if not right:
        raise RefusedError(
            f"a restore with {what}",
            cause=why,
            cure="use `userfault attach --cloud-hypervisor`",
        )
