"""Everything of a context is in: its memory is let go of."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

from userfault.kernel.errors import KernelError
from userfault.pager.core import actions
from userfault.pager.drivers.mappings.served import Context, Served
from userfault.pager.drivers.serving import restored

if TYPE_CHECKING:
    from userfault.pager.drivers.serving.background import Background


class Finishing(restored.Serving, Protocol):
    """Whoever serves."""

    background: Background
    let_go: Callable[[Context], None]

    def end_recording(self, served: Served) -> None:
        """First touches of it are recorded no more."""

    def report(self, context: Context, action: actions.Report) -> None:
        """A page was given up."""

    def commit(self, changed: Served) -> bool:
        """Record what is served, `changed` anew."""


def finish(service: Finishing, context: Context, action: actions.Finish) -> None:
    """Check the source a last time, then let go of the memory.

    Mostly the context stays and its events are read on: a thread may have raised one just before
    its range was unregistered, and it sleeps until somebody reads it.
    """
    if action.owner_gone:
        service.context_ended(context)  # of a dead client this was perhaps the last
        return
    served = context.served
    service.end_recording(served)
    changed = served.origin.changed()
    if changed:
        told = actions.Report(0, changed, "restore again from an intact copy")
        service.report(context, told)
    service.commit(served)  # a successor must not unregister what the client maps there later
    if served.attach.restored:
        restored.let_go(service, context)
        return
    for start, length in action.segments:
        with contextlib.suppress(KernelError):
            context.uffd.unregister(start, length)
    service.background.discard(context)
    served.origin.rest()
    service.let_go(context)
    if context is served.main:
        served.finish()
