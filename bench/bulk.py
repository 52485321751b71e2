"""Bulk: how fast is a whole image brought in, compared with large ioctls from C?

Two ways: UFFDIO_COPY from a file in the page cache to anonymous memory, and UFFDIO_CONTINUE over
shared memory whose pages are all there.  The time is that of the filling alone: ours from calling
`complete()` until it returns (one request, the fill, one notice, one question), C's from before
its first ioctl to after its last.  Every round maps afresh, and nothing is touched before.  C has
its source mapped and populated before the clock runs; ours looks on the way whether each block is
in the page cache, as it must for a source that need not be.

C is measured with one ioctl for the whole image, and with pieces of 2 MiB and 256 KiB; the
ratio is against the one whose median is best.  Ours cuts the work by its policy, so that a fault
need not wait behind it.  Before every turn as much memory as the image takes is touched and freed:
a host may take free memory back within seconds (free page reporting), and getting it anew is slow.

Not asked here: a source on a disk, faults meanwhile.  What `lazy()` costs before is a row of its
own, without a rival.
"""

from __future__ import annotations

import statistics
import time
from contextlib import ExitStack, closing

from bench.images import PAGE, Image
from bench.measure import Row, Target, alternate, compare
from bench.run import Run
from bench.sides import Ours, Rival, Side
from userfault.kernel.memtypes import GIB, KIB, MIB, size_name

_PIECES = {"C whole": 0, "C 2 MiB": 2 * MIB, "C 256 KiB": 256 * KIB}
_TARGET = Target(">=", 0.9)


def run(run: Run) -> None:
    """Rows into `run.rows`."""
    for size in (256 * MIB, 2 * GIB) if not run.tiny else (8 * MIB,):
        if not run.fits(f"bulk {size_name(size)}", 4 * size):
            continue
        pages = size // PAGE
        with Image.file(run.directory, pages, run.native) as image:
            _image(run, image, prepared=False)
        with Image.memfd(pages, run.native) as image:
            _image(run, image, prepared=True)


def _image(run: Run, image: Image, *, prepared: bool) -> None:
    setups: list[float] = []
    hashes: dict[str, int] = {}
    with ExitStack() as stack:
        sides: dict[str, Side] = {"ours": stack.enter_context(closing(Ours(prepared=prepared)))}
        for name, size in _PIECES.items():
            rival = Rival(run.native, prepared=prepared, fill_size=size)
            sides[name] = stack.enter_context(closing(rival))

        def turn(name: str, number: int) -> float:
            image.ensure_cached()
            if not prepared:  # else there is nothing to allocate but page tables
                run.native.warm(image.length + image.length // 4)
            start = time.perf_counter()
            with sides[name].mapped(image) as memory:
                if name == "ours" and number:
                    setups.append(time.perf_counter() - start)
                took = memory.fill()
                if number == 0:  # every byte, once a side
                    hashes[name] = run.native.hash(memory.address, image.length)
            return image.length / GIB / took

        figures = alternate(run.rounds, sides, turn)
    what = "CONTINUE, shared memory" if prepared else "COPY, file to anonymous"
    case = f"{what}, {size_name(image.length)}"
    run.checks.same(f"bulk {case}", {**hashes, "source": image.hash})
    _report(run, case, figures, setups)


def _report(run: Run, case: str, figures: dict[str, list[float]], setups: list[float]) -> None:
    medians = {name: statistics.median(figures[name]) for name in _PIECES}
    best = figures[max(medians, key=lambda name: medians[name])]
    each = ", ".join(f"{name} {median:.2f}" for name, median in medians.items())
    each += f"; best rounds: ours {max(figures['ours']):.2f}, C {max(best):.2f}"
    row = Row("bulk", case, "GiB/s", 0.0, ratio_of="ours / C", target=_TARGET, note=each)
    run.rows.append(compare(row, figures["ours"], best))
    set_up = Row(
        "bulk",
        f"set-up by lazy() with a shared pager: {case}",
        "ms",
        statistics.median(setups) * 1e3,
        rounds=len(setups),
        note="not part of the row above",
    )
    run.rows.append(set_up)
