"""What is filled while nothing waits: a chunk of one context after the other."""

from __future__ import annotations

from userfault.pager.core.turns import Turns
from userfault.pager.drivers.mappings.served import Context
from userfault.pager.drivers.serving.acting import Acting

_PIECES = 16  # background fills between two looks at the queue; small ones take 10 µs each


class Background(Turns[Context]):
    """The contexts that may have background work."""

    def __init__(self, acting: Acting) -> None:
        super().__init__()
        self._acting = acting

    def work(self) -> None:
        """One chunk of whoever is next."""
        while (turn := self.next()) is not None:
            context, noisy = turn
            if noisy:
                context.core.disturb()
            with self._acting.costs(context.served):
                if self._chunk(context):
                    # `perform` puts it to the end of the queue: everybody gets a turn.
                    return

    def _chunk(self, context: Context) -> bool:
        """A chunk, in one piece or in several that are small; whether any."""
        core = context.core
        plan = core.plan
        left = min(plan.chunk_pages, plan.piece_pages(core.planner.quiet))
        pieces = 0
        while pieces < _PIECES and left > 0 and (count := core.idle_work()):
            left -= count
            pieces += 1
            self._acting.perform(context)
        return pieces > 0
