"""Runs of pages that take the place of others: what was read again while a memory was packed."""

from __future__ import annotations

from array import array
from itertools import accumulate

from userfault.snapshot.format.runs import Runs
from userfault.snapshot.serving.image import slices


class Patches:
    """Runs of pages in ascending order, which do not overlap."""

    def __init__(self) -> None:
        self._patches: list[tuple[int, int, Runs]] = []
        self._end = 0

    def append(self, first: int, runs: Runs) -> bool:
        """One more; False, and nothing is done, where it does not lie behind the others."""
        if first < self._end:
            return False
        self._end = first + sum(runs.counts)
        self._patches.append((first, self._end, runs))
        return True

    def over(self, runs: Runs) -> Runs:
        """`runs`, and these in their places."""
        if not self._patches:
            return runs
        starts = array("Q", accumulate(runs.counts, initial=0))
        made = Runs()
        at = 0
        for first, end, patch in self._patches:
            for run in slices(runs, starts, at, first - at):
                made.append(*run)
            for run in patch:
                made.append(*run)
            at = end
        for run in slices(runs, starts, at, starts[-1] - at):
            made.append(*run)
        return made
