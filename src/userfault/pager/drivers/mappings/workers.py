"""Processes that call the user's function, so that it can be slow, hang or crash.

A worker is a fresh Python with the client's module path.  It writes what the function returns
into memory shared with the pager and answers with a short message; past the deadline it is killed
and replaced.  What it writes to standard error goes through the pager, so that a function that
says much, to a terminal that stands still, is not late for that.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import signal
import socket
import struct
import sys
from collections import deque

import msgspec

from userfault.kernel.errors import PagerError, SourceError, UserfaultError
from userfault.linux.parent import end_with_parent
from userfault.linux.pidfd import close_all
from userfault.pager.core.actions import Fetch
from userfault.pager.drivers.mappings.readers import Answered
from userfault.pager.drivers.processes.lean import lean_path
from userfault.pager.drivers.processes.say import say_raw
from userfault.pager.drivers.processes.spawn import spawn_python
from userfault.pager.drivers.processes.texts import MOST, clipped
from userfault.pager.drivers.wire import packets
from userfault.source.functions import FunctionSource
from userfault.source.spec import FunctionSpec

_REQUEST = struct.Struct("=QQQ")  # fetch number, offset, length
_REPLY = struct.Struct("=Q?")  # fetch number, whether it worked; then the cause as text
_SAID = 4096  # bytes of a function's standard error that are passed on at once


class Worker:
    """One worker process: at most one fetch at a time.  `said`: the end of its standard error."""

    def __init__(
        self, spec: bytes, options: tuple[str, ...], slot_bytes: int, arguments: int
    ) -> None:
        """Raises OSError, PagerError."""
        with contextlib.ExitStack() as undo, contextlib.ExitStack() as passed:
            ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            undo.callback(ours.close)
            passed.callback(theirs.close)
            self.said, says = os.pipe2(os.O_CLOEXEC)
            undo.callback(os.close, self.said)
            passed.callback(os.close, says)
            os.set_blocking(self.said, False)
            slot = os.memfd_create("userfault-worker", os.MFD_CLOEXEC)
            passed.callback(os.close, slot)
            os.ftruncate(slot, slot_bytes)
            self.slot = mmap.mmap(slot, slot_bytes)
            undo.callback(self.slot.close)
            # Sent before there is anybody to read it, so that nothing can fail once it runs.
            packets.send(ours, 0, spec, [slot, *([arguments] if arguments >= 0 else [])])
            # -u: what a function prints is not lost when its worker is killed
            options = (*options, "-u")
            self.pid = spawn_python(
                __name__, "work", theirs.fileno(), lean_path(), options=options, stderr=says
            )
            undo.pop_all()
        self.channel = ours
        self.fetch: Fetch | None = None
        self.length = 0  # bytes asked for

    def load(self) -> None:
        """Ask for no bytes: it loads the function, and does not call it."""
        self.channel.send(_REQUEST.pack(0, 0, 0))

    def loaded(self) -> str:
        """Why the function cannot be loaded, which `load` asked; empty where it is."""
        data = self.answer()
        if len(data) < _REPLY.size:
            return "the process that loaded it has ended"
        return "" if _REPLY.unpack_from(data)[1] else _text(data)

    def answer(self) -> bytes:
        """What it says; nothing where it has died."""
        with contextlib.suppress(OSError):  # reset by its death: the same as end of file
            return self.channel.recv(_REPLY.size + MOST)
        return b""

    def ask(self, fetch: Fetch, offset: int, length: int) -> None:
        self.fetch, self.length = fetch, length
        self.channel.send(_REQUEST.pack(fetch.number, offset, length))

    def pass_on(self) -> bool:
        """Pass on what it wrote to standard error, as far as that takes it; False at the end."""
        try:
            data = os.read(self.said, _SAID)
        except BlockingIOError:
            return True
        except OSError:
            return False
        say_raw(data)
        return bool(data)

    def close(self) -> None:
        """Kill and reap it: a function may be deep in anything."""
        self.channel.close()
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):  # SIGCHLD is ignored: nobody is to be reaped
            os.waitpid(self.pid, 0)
        self.pass_on()  # its last words
        os.close(self.said)
        self.slot.close()


class Workers:
    """Fetches of one function source.  `arguments`: the descriptor of those that are large."""

    def __init__(self, spec: FunctionSpec, slot_bytes: int, arguments: int) -> None:
        self._spec, self._options = msgspec.msgpack.encode(spec), spec.options
        self._slot_bytes = slot_bytes
        self._arguments = arguments
        self.workers: list[Worker] = []
        self.fresh: list[Worker] = []  # not yet watched by the loop
        self.answers: deque[Answered] = deque()

    def start(self, fetch: Fetch, offset: int, length: int) -> None:
        """Hand a fetch to an idle worker, or to a new one."""
        worker = next((held for held in self.workers if held.fetch is None), None)
        try:
            if worker is None:
                worker = Worker(self._spec, self._options, self._slot_bytes, self._arguments)
                self.workers.append(worker)
                self.fresh.append(worker)
            worker.ask(fetch, offset, length)
        except (OSError, PagerError) as error:
            cause = f"no process for the function: {_why(error)}"
            self.answers.append(Answered(fetch, None, cause))
            if worker is not None:
                self.drop(worker)

    def adopt(self, worker: Worker) -> None:
        """A process that has loaded the function; the loop watches it from its first read on."""
        self.workers.append(worker)
        self.fresh.append(worker)

    def readable(self, worker: Worker) -> bool:
        """Take a worker's answer; False when it has died (the loop forgets it)."""
        fetch = worker.fetch
        data = worker.answer()
        if len(data) < _REPLY.size:
            self.drop(worker)
            if fetch is not None:
                cause = "the worker process that ran the function has died"
                self.answers.append(Answered(fetch, None, cause))
            return False
        worker.fetch = None
        if fetch is None:
            return True
        _, worked = _REPLY.unpack_from(data)
        if worked:
            answer = Answered(fetch, memoryview(worker.slot[: worker.length]))
        else:
            answer = Answered(fetch, None, _text(data))
        self.answers.append(answer)
        return True

    def take(self) -> Answered:
        """The next answer; there is one."""
        return self.answers.popleft()

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


def _text(data: bytes) -> str:
    return data[_REPLY.size :].decode(errors="replace")


def _why(error: OSError | PagerError) -> str:
    if isinstance(error, UserfaultError):
        return f"{error.what}: {error.cause}"
    return os.strerror(error.errno or 0)


def work(channel: socket.socket) -> None:
    """The main program of a worker: answer requests until the pager is gone.

    The kernel kills it with the pager, even in the middle of a function that never returns.
    """
    end_with_parent(os.getppid())
    with contextlib.suppress(ConnectionError):  # the pager was killed, and so are we in a moment
        _answer(channel)


def _answer(channel: socket.socket) -> None:
    """Answer requests until the pager is gone."""
    packet = packets.receive(channel)
    if packet.ended:
        return
    spec = msgspec.msgpack.decode(packet.data, type=FunctionSpec)
    slot = mmap.mmap(packet.fds[0], os.fstat(packet.fds[0]).st_size)
    arguments = os.pread(packet.fds[1], spec.stored, 0) if spec.stored else spec.arguments
    close_all(packet.fds)
    path = [os.fsdecode(entry) for entry in spec.path]
    sys.path[:] = [*path, *(entry for entry in sys.path if entry not in path)]
    source: FunctionSource | None = None
    while True:
        request = channel.recv(_REQUEST.size)
        if not request:
            return
        number, offset, length = _REQUEST.unpack(request)
        text = ""
        try:
            source = source or FunctionSource(spec, arguments)
            with memoryview(slot) as whole, whole[:length] as target:
                source.read_into(target, offset)
        except SourceError as error:
            text = clipped(f"{error.what}: {error.cause}")
        channel.send(_REPLY.pack(number, not text) + text.encode())
