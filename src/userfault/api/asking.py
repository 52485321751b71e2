"""Asking a family over its socket, from the side of the process that holds it."""

from __future__ import annotations

import os
import socket

from userfault.api.starting import Family
from userfault.kernel.errors import PagerError
from userfault.linux import rights
from userfault.linux.unpatched import original
from userfault.pager.drivers.wire import messages


def ask(
    family: Family, serial: int, message: messages.Request, fds: list[int]
) -> messages.Done | messages.Answer | messages.Loaded | messages.Refused | None:
    """Ask, and ask again when another worker took over; None when the pager is dead.

    Raises PagerError where the request cannot be sent, or the reply not be read.
    """
    sender = rights.credentials(*family.rights)
    try:
        while True:
            messages.send(family.channel, serial, message, fds, sender=sender)
            reply = messages.receive_reply(family.channel, serial)
            if not isinstance(reply, messages.Resumed):
                return reply
    except (ConnectionError, TimeoutError):
        return None
    except OSError as error:
        raise PagerError(
            "the pager cannot be asked",
            cause=os.strerror(error.errno or 0),
            cure="check the limits on memory and descriptors (ulimit -n)",
        ) from None


def hung_up(channel: socket.socket, timeout_s: float = 0.0) -> bool:
    """Whether every process has closed its end of the channel, or does so in time."""
    poll = original("select", "poll")()
    poll.register(channel, 0)  # POLLHUP is always told
    return bool(poll.poll(timeout_s * 1000))
