"""Keeping the life line's signal one that reaches the client: SIGBUS, or SIGKILL where it does not.

SIGBUS tells which line waited (`faulthandler`), but a program may ignore it, or block it in every
thread, and would sleep for ever once nobody serves it.  It may do so at any time, and nobody tells
us: so we look, when faults come and every now and then.  Who is left to look when the pager has
been killed?  Nobody: what the program changed within the last second is not known then.
"""

from __future__ import annotations

import math
import signal
from collections.abc import Mapping

from userfault.linux.signals import reaches
from userfault.pager.drivers.clients.client import Client

_IDLE_S = 1.0  # a look takes 30 µs


class Reach:
    """Looks at the signals of `clients`: of those that fault whenever it is called, else seldom."""

    def __init__(self, clients: Mapping[int, Client]) -> None:
        self._clients = clients
        self._all_at = 0.0  # when all of them are due

    def look(self, now: float) -> float:
        """Look at those that are due: how long to sleep at most if nothing happens.

        That is for ever where no life line is needed any more.
        """
        everybody = now >= self._all_at
        if everybody:
            self._all_at = now + _IDLE_S
        at_most = math.inf
        for client in self._clients.values():
            if client.foreign:
                continue
            if everybody or client.owner.heard:
                client.owner.heard = False
                if _look(client):
                    at_most = _IDLE_S
            elif any(each.needed for each in client.mappings.values()):
                at_most = _IDLE_S
        return at_most


def _look(client: Client) -> bool:
    """Whether it has life lines that are needed; they ask for the signal that reaches it."""
    served = client.mappings.values()
    lines = [each.lifeline for each in served if each.needed]
    if lines:
        pid = client.owner.pid
        told = reaches(pid, signal.SIGBUS) if pid > 0 else None
        if told is not None:
            for line in lines:
                line.ask_for(signal.SIGBUS if told else signal.SIGKILL)
    return bool(lines)
