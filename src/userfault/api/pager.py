"""`Pager`: the client's end of a pager process, which may serve many mappings."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import threading
import weakref

import msgspec

from userfault.kernel.errors import PagerError, UsageError
from userfault.linux import pidfd
from userfault.pager.drivers import messages
from userfault.pager.drivers.spawn import lean_path, spawn_python

_END_S = 10.0


class Pager:
    """A pager process of one's own, for any number of `lazy(..., pager=...)` mappings.

    Starting one takes some 50 ms; a shared one serves a further mapping within 3 ms.  Use it as a
    context manager, or call `close()`.  Thread-safe.  Raises PagerError when it cannot be started.

    `in_flight`: reads of sources under way at once, by threads and worker processes, of all its
    mappings together; they share these places fairly, faults before background fill.

    >>> with Pager() as pager:
    ...     pager.alive
    True
    """

    def __init__(self, *, in_flight: int = 32) -> None:
        if in_flight < 1:
            raise UsageError(
                f"Pager(in_flight={in_flight})",
                cause="without a place no source can be read",
                cure="leave it out for the default",
            )
        with contextlib.ExitStack() as undo:
            try:
                self._channel, self._pidfd, self.pid = _start(undo, messages.Hello(in_flight))
            except PagerError:
                raise
            except OSError as error:
                raise PagerError(
                    "cannot start a pager",
                    cause=os.strerror(error.errno or 0),
                    cure="check the limits on processes (ulimit -u) and descriptors (ulimit -n)",
                ) from None
            undo.pop_all()
        self._lock = threading.Lock()
        self._numbers = 0
        self._serial = 0
        self._owner = os.getpid()
        self._finalizer = weakref.finalize(
            self, _end, self._channel, self._pidfd, self.pid, self._owner
        )

    @property
    def alive(self) -> bool:
        """Whether the process runs."""
        return self._finalizer.alive and not pidfd.ended(self._pidfd)

    @property
    def pidfd(self) -> int:
        """Polls readable when the process has ended."""
        return self._pidfd

    def number(self) -> int:
        """A number for a new mapping."""
        with self._lock:
            self._numbers += 1
            return self._numbers

    def request(
        self, message: messages.Request, fds: list[int] | None = None
    ) -> messages.Done | messages.Answer:
        """Send a request and wait for its reply; raises PagerError when it refuses or is dead."""
        if not self._finalizer.alive:
            raise PagerError(
                "the pager is closed", cause="close() was called", cure="make a new Pager()"
            )
        if os.getpid() != self._owner:
            raise PagerError(
                "the pager belongs to another process",
                cause="this process was forked from the one that made it",
                cure="make a Pager() here",
            )
        try:
            with self._lock:
                self._serial += 1
                messages.send(self._channel, self._serial, message, fds)
                reply = messages.receive_reply(self._channel, self._serial)
        except OSError:
            reply = None
        if reply is None:
            raise PagerError(
                f"the pager (process {self.pid}) has died",
                cause="it was killed, or failed: its standard error may say more",
                cure="memory that was not filled yet is lost: restore again with a new pager",
            )
        if isinstance(reply, messages.Refused):
            raise PagerError(reply.what, cause=reply.cause, cure=reply.cure)
        return reply

    def close(self) -> None:
        """End the process.  Mappings that are not complete must be left before."""
        self._finalizer()

    def __enter__(self) -> Pager:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def _start(undo: contextlib.ExitStack, hello: messages.Hello) -> tuple[socket.socket, int, int]:
    """Start the process: our end of the channel, its pidfd, its process id."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    undo.callback(ours.close)
    with theirs:
        client = os.pidfd_open(os.getpid())
        try:
            # Sent before there is anybody to read it, so that nothing can fail once it runs.
            socket.send_fds(ours, [msgspec.msgpack.encode(hello)], [client])
        finally:
            os.close(client)
        pid = spawn_python(
            "userfault.api.pager_main", "main", theirs.fileno(), lean_path(), lean=True
        )
    try:
        return ours, os.pidfd_open(pid), pid
    except OSError:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        raise


def _end(channel: socket.socket, process: int, pid: int, owner: int) -> None:
    """Ask the process to end, kill it if it does not, and reap it."""
    if os.getpid() != owner:  # a forked child: the pager is not ours to end
        channel.close()
        os.close(process)
        return
    with contextlib.suppress(OSError):
        messages.send(channel, 0, messages.Quit())
    channel.close()
    if not pidfd.wait(process, _END_S):
        pidfd.kill(process)
    with contextlib.suppress(ChildProcessError):
        os.waitpid(pid, 0)
    os.close(process)
