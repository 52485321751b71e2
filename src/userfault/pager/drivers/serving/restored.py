"""Processes that another program made anew: nobody but us holds their userfaultfds."""

from __future__ import annotations

from typing import Protocol

from userfault.pager.drivers.mappings.served import Context
from userfault.pager.drivers.serving.loop import Loop


class Serving(Protocol):
    """Whoever serves."""

    loop: Loop

    def context_ended(self, context: Context) -> None:
        """It is served no more."""


def let_go(service: Serving, context: Context) -> None:
    """Nothing of it is missing any more, and its record says so: close its userfaultfd.

    The kernel unregisters all of its memory by that, what reads zero included.  No fork can be
    under way that has seen less than everything: fills fail until its event is read.

    Whoever is killed in between leaves a descriptor behind that is no userfaultfd: of one that is
    closed no record, and that no record names, threads would wait for ever.
    """
    context.core.out.clear()  # whom it would wake, the kernel does
    service.loop.forget(context.fd)
    context.uffd.blank()
    service.context_ended(context)
