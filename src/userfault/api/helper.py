"""A process of ours that does what this one cannot do for itself, and is asked one thing at a time.

It ends when its channel does: when this process ends, whatever ends it.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
from collections.abc import Sequence

from userfault.kernel.errors import PagerError
from userfault.linux.refused import calling, cause_of, cure_of
from userfault.linux.unpatched import original, packet_sockets
from userfault.pager.drivers.processes.lean import lean_path
from userfault.pager.drivers.processes.spawn import spawn_python
from userfault.pager.drivers.wire import packets


class Helper:
    """Runs `module.main(channel)` in a new interpreter.  Raises PagerError where none starts."""

    def __init__(self, module: str) -> None:
        self._lock = original("threading", "Lock")()
        try:
            with calling("socketpair"):
                self._channel, theirs = packet_sockets()
        except OSError as error:
            raise PagerError(
                "cannot start a process", cause=cause_of(error), cure=cure_of(error)
            ) from None
        try:
            self.pid = spawn_python(module, "main", theirs.fileno(), lean_path())
        except BaseException:
            self._channel.close()
            raise
        finally:
            theirs.close()

    def ask(self, data: bytes, fds: Sequence[int] = ()) -> tuple[bytes, list[int]]:
        """Its answer, and descriptors that came with it.  Raises PagerError where it has died."""
        with self._lock:
            try:
                packets.send(self._channel, 0, data, fds)
                packet = packets.receive(self._channel)
            except OSError:
                packet = None
        if packet is None or packet.ended:
            raise PagerError(
                f"the process {self.pid} that helps this one has died",
                cause="it was killed",
                cure="begin anew",
            )
        return packet.data, packet.fds

    def close(self) -> None:
        """End it, and wait for that."""
        self._channel.close()
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):
            os.waitpid(self.pid, 0)

    def forked(self) -> None:
        """In a child of fork(2): the process is the parent's."""
        self._channel.close()


def served(channel: socket.socket) -> tuple[bytes, list[int]] | None:
    """In the helper: the next request; None when nobody asks any more."""
    try:
        packet = packets.receive(channel)
    except OSError:
        return None
    return None if packet.ended else (packet.data, packet.fds)


def answer(channel: socket.socket, data: bytes, fds: Sequence[int] = ()) -> None:
    """In the helper: the answer to the request."""
    with contextlib.suppress(OSError):  # then nobody waits for it
        packets.send(channel, 0, data, fds)
