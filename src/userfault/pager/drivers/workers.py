"""Processes that call the user's function, so that it can be slow, hang or crash.

A worker is a fresh Python with the client's module path.  It writes what the function returns
into memory shared with the pager and answers with a short message; past the deadline it is killed
and replaced.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import signal
import socket
import struct
from collections import deque

import msgspec

from userfault.kernel.errors import SourceError
from userfault.linux import pidfd
from userfault.linux.parent import end_with_parent
from userfault.pager.core.actions import Fetch
from userfault.pager.drivers.readers import Answered
from userfault.pager.drivers.spawn import spawn_python
from userfault.source.functions import FunctionSource
from userfault.source.spec import FunctionSpec

_REQUEST = struct.Struct("=QQQ")  # fetch number, offset, length
_REPLY = struct.Struct("=Q?")  # fetch number, whether it worked; then the cause as text
_MAX_TEXT = 4000


class Worker:
    """One worker process: at most one fetch at a time."""

    def __init__(self, spec: bytes, path: tuple[str, ...], slot_bytes: int) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        slot = os.memfd_create("userfault-worker", os.MFD_CLOEXEC)
        try:
            os.ftruncate(slot, slot_bytes)
            self.slot = mmap.mmap(slot, slot_bytes)
            self.pid = spawn_python("userfault.pager.drivers.workers", "work", theirs.fileno(),
                                    list(path), lean=False)  # fmt: skip
            socket.send_fds(ours, [spec], [slot])
        finally:
            os.close(slot)
            theirs.close()
        self.channel = ours
        self.fetch: Fetch | None = None
        self.length = 0  # bytes asked for

    def ask(self, fetch: Fetch, offset: int, length: int) -> None:
        self.fetch, self.length = fetch, length
        self.channel.send(_REQUEST.pack(fetch.number, offset, length))

    def close(self) -> None:
        """Kill and reap it: a function may be deep in anything."""
        self.channel.close()
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)
        self.slot.close()


class Workers:
    """Fetches of one function source.  `watch`: called with a new worker's channel and handler."""

    def __init__(self, mapping: int, spec: FunctionSpec, slot_bytes: int) -> None:
        self._mapping = mapping
        self._spec = msgspec.msgpack.encode(spec)
        self._path = spec.path
        self._slot_bytes = slot_bytes
        self.workers: list[Worker] = []
        self.fresh: list[Worker] = []  # not yet watched by the loop
        self.answers: deque[Answered] = deque()

    def start(self, fetch: Fetch, offset: int, length: int) -> None:
        """Hand a fetch to an idle worker, or to a new one."""
        worker = next((held for held in self.workers if held.fetch is None), None)
        try:
            if worker is None:
                worker = Worker(self._spec, self._path, self._slot_bytes)
                self.workers.append(worker)
                self.fresh.append(worker)
            worker.ask(fetch, offset, length)
        except OSError as error:
            cause = f"no worker for the source: {os.strerror(error.errno or 0)}"
            self.answers.append(Answered(self._mapping, fetch, None, cause))
            if worker is not None:
                self.drop(worker)

    def readable(self, worker: Worker) -> bool:
        """Take a worker's answer; False when it has died (the loop forgets its channel)."""
        fetch = worker.fetch
        data = b""
        with contextlib.suppress(OSError):  # reset by its death: the same as end of file
            data = worker.channel.recv(_REPLY.size + _MAX_TEXT)
        if not data:
            self.drop(worker)
            if fetch is not None:
                cause = "the worker process that ran the function has died"
                self.answers.append(Answered(self._mapping, fetch, None, cause))
            return False
        worker.fetch = None
        if fetch is None:
            return True
        _, worked = _REPLY.unpack_from(data)
        if worked:
            answer = Answered(self._mapping, fetch, memoryview(worker.slot[: worker.length]))
        else:
            answer = Answered(self._mapping, fetch, None, data[_REPLY.size :].decode())
        self.answers.append(answer)
        return True

    def drop(self, worker: Worker) -> None:
        """End one worker."""
        if worker in self.workers:
            self.workers.remove(worker)
            if worker in self.fresh:
                self.fresh.remove(worker)
            worker.close()

    def close(self) -> None:
        """End all workers."""
        for worker in list(self.workers):
            self.drop(worker)


def work(channel: socket.socket) -> None:
    """The main program of a worker: answer requests until the pager is gone.

    The kernel kills it with the pager, even in the middle of a function that never returns.
    """
    end_with_parent(os.getppid())
    with contextlib.suppress(ConnectionError):  # the pager was killed, and so are we in a moment
        _answer(channel)


def _answer(channel: socket.socket) -> None:
    """Answer requests until the pager is gone."""
    data, fds, _ = pidfd.receive(channel, 1 << 20, 1)
    if not data:
        return
    spec = msgspec.msgpack.decode(data, type=FunctionSpec)
    slot = mmap.mmap(fds[0], os.fstat(fds[0]).st_size)
    source: FunctionSource | None = None
    while True:
        request = channel.recv(_REQUEST.size)
        if not request:
            return
        number, offset, length = _REQUEST.unpack(request)
        text = ""
        try:
            source = source or FunctionSource(spec)
            with memoryview(slot) as whole, whole[:length] as target:
                source.read_into(target, offset)
        except SourceError as error:
            text = f"{error.what}: {error.cause}"
        channel.send(_REPLY.pack(number, not text) + text.encode()[:_MAX_TEXT])
