"""Turning somebody away who may have handed over its memory already.

A client that has sent its userfaultfd and keeps a duplicate notices nothing when it is not served,
and waits for ever at its first page; one that keeps none would read zeros there.  Such a one is
ended, before any descriptor of it is closed.  Whoever has sent nothing yet finds a connection that
takes nothing (EPIPE), which is an error that it can tell.

Between a look and the close something may be sent: so the connection is shut for what comes first
(shutdown(2), SHUT_RD: the kernel refuses to queue more, and what is queued stays to be read).
"""

from __future__ import annotations

import contextlib
import signal
import socket

from userfault.linux.pidfd import close_all
from userfault.serve import handshake
from userfault.serve.asked import is_userfaultfd
from userfault.serve.refusals import Refusals

KILL, CLOSE = "kill", "close"


class TurningAway:
    """Tells `refusals`.  `policy`: what is done about those who would wait for ever, kill or close.

    `close`: nothing; it is for clients that have a watchdog of their own.
    """

    def __init__(self, refusals: Refusals, policy: str) -> None:
        self._refusals = refusals
        self._policy = policy

    def turn(
        self,
        about: str,
        error: Exception,
        channel: socket.socket,
        process: int,
        *,
        handed_over: bool = False,
    ) -> None:
        """Tell why, and end the process behind pidfd `process` (-1: not to be seen) if it counts on
        being served.  `handed_over`: that was seen already.  The caller closes everything."""
        counts = handed_over or counts_on_us(channel)
        self.tell(about, f"{error}{self._done(process) if counts else ''}")

    def tell(self, about: str, why: Exception | str) -> None:
        """The log, of one that notices by itself."""
        self._refusals.tell(about, why)

    def _done(self, process: int) -> str:
        """What became of one that has handed over its memory."""
        if self._policy == CLOSE:
            return "; it has handed over its memory, and is not ended (--on-refusal close)"
        if process < 0:
            return "; it has handed over its memory, and cannot be ended: it is not to be seen here"
        try:
            signal.pidfd_send_signal(process, signal.SIGKILL)
        except ProcessLookupError:
            return ""
        except OSError as error:
            return (
                "; it has handed over its memory, waits for ever, and cannot be ended"
                f" ({error.strerror}: CAP_KILL, or the same user)"
            )
        return "; it has handed over its memory, which nobody fills: ended"


def counts_on_us(channel: socket.socket) -> bool:
    """Whether a userfaultfd lies in a connection that is to be closed; nothing more comes into it.

    Descriptors that do not fit here are taken for one.
    """
    found = False
    with contextlib.suppress(OSError):  # it has gone
        channel.shutdown(socket.SHUT_RD)
    with contextlib.suppress(OSError):
        handshake.begin(channel)
        while (peeked := handshake.peek(channel)) is not None:
            found = found or peeked.lost or any(map(is_userfaultfd, peeked.fds))
            close_all(peeked.fds)
            if peeked.ended:
                break
    return found
