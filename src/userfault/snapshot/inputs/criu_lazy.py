"""What a lazy restore leaves to a pager: of each task of a CRIU dump the pages that may come later.

CRIU fills everything else itself (criu/mem.c, `restore_priv_vma_content`), and registers the areas
that such pages lie in as a whole; what the dump has no pages for reads zero.
"""

from __future__ import annotations

import bisect
from collections.abc import Iterator

from userfault.snapshot.inputs import criu_images
from userfault.snapshot.inputs.criu_images import Area
from userfault.snapshot.inputs.criu_pages import Found, Layers
from userfault.snapshot.inputs.protocol import PAGE

MOST_REGIONS = 4096  # of a task, where holes can be bridged


class LazyTask:
    """The pages of one task that CRIU does not restore itself.

    `runs`: where they are, in ascending order, none across the border of two areas.  Raises
    FormatError where the dump is damaged or not complete.
    """

    def __init__(self, folder: str, pid: int) -> None:
        self.pid = pid
        self._layers = Layers(folder, str(pid))
        try:
            self._areas = criu_images.memory(folder, pid).areas
            self.runs = list(_joined(self._split()))
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> LazyTask:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the files."""
        self._layers.close()

    @property
    def one_file(self) -> int:
        """The descriptor of the file that has all of them; -1 where it takes several."""
        files = {run.fd for run in self.runs}
        return files.pop() if len(files) == 1 else -1

    def stretches(self, most: int = 0) -> list[tuple[int, int]]:
        """Addresses [start, end) that have all of them: at most `most`, if there are no more areas.
        (0: as many as a snapshot should have of a task.)

        Where there would be more, the smallest holes within areas are taken along.
        """
        found = [(run.address, run.address + run.pages * PAGE) for run in self.runs]
        areas = list(map(self._area_of, (start for start, _ in found)))
        holes = [
            (found[at + 1][0] - found[at][1], at)
            for at in range(len(found) - 1)
            if areas[at] is areas[at + 1]
        ]
        small = sorted(holes)[: max(len(found) - (most or MOST_REGIONS), 0)]
        bridged = {at for size, at in holes if not size} | {at for _, at in small}
        taken: list[tuple[int, int]] = []
        for at, (start, end) in enumerate(found):
            if at - 1 in bridged:
                taken[-1] = (taken[-1][0], end)
            else:
                taken.append((start, end))
        return taken

    def _split(self) -> Iterator[tuple[Area, Found]]:
        """Each with the area that it lies in."""
        for start, end in self._layers.lazy():
            at = bisect.bisect_right(self._areas, start, key=_start) - 1
            for area in self._areas[max(at, 0) :]:
                if area.start >= end:
                    break
                if area.end > start:
                    for found in self._layers.present(max(start, area.start), min(end, area.end)):
                        yield area, found

    def _area_of(self, address: int) -> Area:
        return self._areas[bisect.bisect_right(self._areas, address, key=_start) - 1]


def _start(area: Area) -> int:
    return area.start


def _joined(runs: Iterator[tuple[Area, Found]]) -> Iterator[Found]:
    """What follows in memory and in the file is one run, but across the border of two areas."""
    before: Found | None = None
    within: Area | None = None
    for area, run in runs:
        if before is not None and area is within and _goes_on(before, run):
            before = before._replace(pages=before.pages + run.pages)
            continue
        if before is not None:
            yield before
        before, within = run, area
    if before is not None:
        yield before


def _goes_on(before: Found, run: Found) -> bool:
    file = run.fd == before.fd and run.position == before.position + before.pages
    return file and run.address == before.address + before.pages * PAGE
