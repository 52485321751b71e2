"""Pages that the kernel has no memory for: tried again a little later, but not for ever."""

from __future__ import annotations

from userfault.pager.core.actions import CONTINUE
from userfault.pager.core.ledger import Ledger
from userfault.pager.core.pauses import FIRST_PAUSE_S, Pauses

# Refusals for want of memory are repeated this often, with growing pauses, before giving up.
MEMORY_RETRIES = 8


class Poverty:
    """Refusals of one mapping for want of memory, by page."""

    def __init__(self, ledger: Ledger, pauses: Pauses) -> None:
        self._ledger = ledger
        self._pauses = pauses

    def refused(self, page: int, now: float) -> None:
        """ENOMEM for a page that is FILLING: it pauses, or is given up."""
        tries = self._counted(page)
        if tries > MEMORY_RETRIES:
            self._give_up(page)
        else:
            self._pauses.add(now + FIRST_PAUSE_S * 2**tries, page)

    def hidden(self, page: int, now: float) -> None:
        """EEXIST hid that there was no memory; or shared memory has the page, not mapped yet."""
        ledger = self._ledger
        if ledger.plan.shared:  # perhaps cached: the client wrote it through another mapping
            refused = ledger.refusals.get(page, 0)
            self._pauses.add(now + FIRST_PAUSE_S * 2 ** (refused + 1), page)
            ledger.act(CONTINUE, page, 1, demand=False)
        else:
            self.refused(page, now)

    def not_cached(self, page: int) -> None:
        """Nor has shared memory the page: `hidden` has asked."""
        if self._counted(page) > MEMORY_RETRIES:
            self._pauses.end(page)
            self._give_up(page)

    def _counted(self, page: int) -> int:
        """Count one more refusal; how many there were."""
        refusals = self._ledger.refusals
        tries = refusals[page] = refusals.get(page, 0) + 1
        return tries

    def _give_up(self, page: int) -> None:
        self._ledger.poison(
            page,
            1,
            "the kernel has no memory for the page",
            "raise the limit that is hit: memory cgroup, tmpfs size or hugetlb pool",
        )
