"""Restore: how long until a program has all that it touches, when that was recorded before?

The images are real: the memory of a live process (`frozen.py`), or one that you name, and the
touches are those that it made after it had been restored, in their order.  With `--guest` also the
memory of a QEMU guest, with what it touched until it had said some lines (`guests.py`; it needs a
kernel of the lab).  Fragmented: runs of 1 to 3 pages, 30 % of an image, touched at random.

Ours has the touches as a working set, and its clock begins before `lazy()`.  The handler in C
answers each fault by one page; the bare loop in C fills the runs of our course, one ioctl each,
with nobody to serve; their clocks begin when all is set up.  UMap (`--umap FOLDER`, where you have
built it) with its better page size, 4 or 256 KiB.  CRIU's own daemon (`--criu`; `lazy_pages.py`),
which copies the whole image while it answers faults.

A fault on a page that is not in the set, while the set comes: what it takes at the 99th percentile,
against the same touches without a set.

Not asked here: sources that are slow or compressed, where a set saves more; clients that compute.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import random
import tempfile
import time
from array import array
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from pathlib import Path

from pyroaring import BitMap

import userfault
from bench import frozen, guests
from bench.images import PAGE, Image
from bench.lazy_pages import LazyPages
from bench.machine import unbind
from bench.measure import Row, Target, alternate, compare, percentile
from bench.memories import of_file
from bench.run import Run
from bench.sides import Rival
from bench.umap import Umap
from userfault.kernel.memtypes import KIB, MIB, size_name
from userfault.kernel.modes import Mode
from userfault.lab.machine import NoQemu
from userfault.lab.store import Store
from userfault.linux.libc import Pinned
from userfault.linux.uffd import LiveUserfaultfd
from userfault.snapshot.format.first_touch import CLASSES, class_at
from userfault.snapshot.format.working_set import WorkingSet, encode, recorded
from userfault.snapshot.working_sets import routing
from userfault.snapshot.working_sets.course import Course
from userfault.snapshot.working_sets.naming import tie_of
from userfault.source.spec import resolve

DEMAND = userfault.Policy(background=False, record="never")
_ANONYMOUS = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
_OUTSIDE = 2000  # touches while a set comes
_TICKS = 32  # lines that a guest says, each with the checksum of 1 MiB


class Case:
    """An image and what is touched of it: (page, seconds) in order."""

    def __init__(self, name: str, image: Image, touches: Sequence[tuple[int, float]]) -> None:
        self.name = name
        self.image = image
        self.order = array("I", [page for page, _ in touches])
        classes = [BitMap() for _ in range(CLASSES)]
        for page, seconds in touches:
            classes[class_at(seconds)].add(page)
        resolved = resolve(image.fd)
        self.held: WorkingSet = recorded(tie_of(resolved.spec), PAGE, image.pages, classes)
        resolved.close()

    @contextlib.contextmanager
    def as_file(self, directory: Path) -> Iterator[Path]:
        """The set as a file."""
        with tempfile.NamedTemporaryFile(dir=directory, suffix=".set") as file:
            file.write(encode(self.held))
            file.flush()
            yield Path(file.name)

    def runs(self) -> array[int]:
        """Those of our course, and the pages that it leaves out, for the bare loop."""
        built = routing.build(self.held, offset=0, pages=self.image.pages, page_size=PAGE)
        course = Course(built or b"")
        found = array("I")
        for number in range(course.groups):
            for run in course.group(number):
                found.extend(run)
        for page in course.sample:
            found.extend((page, 1))
        return found


def run(run: Run) -> None:
    """Rows into `run.rows`."""
    mib = run.size(220, 12)
    if not run.fits("restore", 4 * mib * MIB):
        return
    run.native.warm(2 * mib * MIB)
    with contextlib.ExitStack() as end:
        taken = frozen.database(run.directory, run.native, mib)
        cases = [Case(taken.name, end.enter_context(taken.image), taken.touches)]
        image = end.enter_context(Image.file(run.directory, mib * MIB // PAGE, run.native))
        cases.append(Case("fragmented", image, _fragmented(image.pages)))
        for path in run.images:
            given = end.enter_context(of_file(path, run.native))
            cases.append(Case(path.name, given, _fragmented(given.pages)))
        if run.guest:
            cases += _guest(run, end)
        unbind()
        for case in cases:
            _restores(run, case)
        _latency(run, cases[0])


def _guest(run: Run, end: contextlib.ExitStack) -> list[Case]:
    """The guest, where there is a kernel for it."""
    try:
        kernel = Store().kernels()[-1]
        taken = guests.guest(run.directory, run.native, kernel, run.size(_TICKS, 2))
    except (IndexError, NoQemu) as error:
        why = "userfault lab fetch trixie" if isinstance(error, IndexError) else str(error)
        run.left_out.append(f"restore: a guest needs QEMU and a kernel of the lab: {why}")
        return []
    return [Case(taken.name, end.enter_context(taken.image), taken.touches)]


def _fragmented(pages: int) -> Sequence[tuple[int, float]]:
    """Runs of 1 to 3 pages, 30 % of all, at random."""
    dice = random.Random(pages)
    runs, at = [], 0
    while at < pages - 3:
        count = dice.randint(1, 3)
        runs.append(range(at, at + count))
        at += count + dice.choice((2, 3, 4, 5, 6, 8))
    dice.shuffle(runs)
    return [(page, 0.0) for each in runs for page in each]


def _restores(run: Run, case: Case) -> None:
    """One case against each rival."""
    hashes: dict[str, int] = {}
    runs = case.runs()
    with (
        case.as_file(run.directory) as path,
        closing(userfault.Pager()) as pager,
        closing(Rival(run.native)) as rival,
        contextlib.ExitStack() as end,
    ):
        with userfault.lazy(b"started", pager=pager):
            pass

        def ours(_: int) -> float:
            start = time.perf_counter()
            with userfault.lazy(
                case.image.fd, policy=DEMAND, pager=pager, working_set=path
            ) as memory:
                hashes["ours"] = run.native.touch(memory.address, case.order, PAGE)
                return (time.perf_counter() - start) * 1e3

        def handler(_: int) -> float:
            with rival.mapped(case.image) as memory:
                start = time.perf_counter()
                hashes["C"] = run.native.touch(memory.address, case.order, PAGE)
                return (time.perf_counter() - start) * 1e3

        def bare(_: int) -> float:
            return _bare(run, case, runs, hashes)

        sides: dict[str, Callable[[int], float]] = {"ours": ours, "C": handler, "loop": bare}
        for size in (4 * KIB, 256 * KIB):
            if run.umap is None:
                break
            side = end.enter_context(closing(Umap(run.native, run.umap, case.image, size)))
            sides[f"umap-{size_name(size)}"] = _umap(side, case, hashes)

        if run.criu:
            folder = Path(end.enter_context(tempfile.TemporaryDirectory(dir=run.directory)))
            sides["criu"] = _criu(run, LazyPages(case.image, folder / "dump"), case, hashes)

        def turn(name: str, number: int) -> float:
            case.image.ensure_cached()
            return sides[name](number)

        figures = alternate(run.rounds, sides, turn)
    run.checks.same(f"restore {case.name}", hashes)
    what = f"{case.name}, {len(case.order)} pages of {size_name(case.image.length)}"
    fragmented = case.name == "fragmented"
    rivals = {
        "C": ("C, a page a fault", None if fragmented else Target(">=", 10)),
        "loop": ("the bare loop in C", Target(">=", 0.7 if fragmented else 0.8)),
    }
    if run.umap is None:
        print(f"restore {case.name}: UMap is skipped: no --umap FOLDER")
    else:
        pairs = zip(figures["umap-4 KiB"], figures["umap-256 KiB"], strict=True)
        figures["umap"] = [min(pair) for pair in pairs]
        rivals["umap"] = ("UMap", Target(">=", 3))
    if run.criu:
        rivals["criu"] = ("criu lazy-pages", Target(">=", 2))
    for name, (says, target) in rivals.items():
        row = Row(
            "restore",
            f"{what}, {says}",
            "ms",
            0.0,
            ratio_of="times as fast",
            target=target,
            rival_name=says,
        )
        run.rows.append(compare(row, figures["ours"], figures[name], inverse=True))


def _bare(run: Run, case: Case, runs: array[int], hashes: dict[str, int]) -> float:
    """Fill by the bare loop, then touch."""
    image = case.image
    with (
        mmap.mmap(-1, image.length, flags=_ANONYMOUS, prot=mmap.PROT_READ) as memory,
        mmap.mmap(image.fd, image.length, prot=mmap.PROT_READ) as source,
        Pinned(memory) as target,
        Pinned(source) as pinned,
        LiveUserfaultfd.open() as uffd,
    ):
        uffd.register(target.address, image.length, Mode.MISSING)
        start = time.perf_counter()
        run.native.fill(uffd.fileno(), target.address, pinned.address, runs)
        hashes["loop"] = run.native.touch(target.address, case.order, PAGE)
        return (time.perf_counter() - start) * 1e3


def _umap(side: Umap, case: Case, hashes: dict[str, int]) -> Callable[[int], float]:
    """The same by UMap."""

    def turn(_: int) -> float:
        took, hashes["UMap"] = side.touch(case.order, os.sched_getaffinity(0))
        return took * 1e3

    return turn


def _criu(run: Run, side: LazyPages, case: Case, hashes: dict[str, int]) -> Callable[[int], float]:
    """The same by CRIU's daemon."""

    def turn(_: int) -> float:
        with side.mapped() as address:
            start = time.perf_counter()
            hashes["CRIU"] = run.native.touch(address, case.order, PAGE)
            return (time.perf_counter() - start) * 1e3

    return turn


def _latency(run: Run, case: Case) -> None:
    """Faults outside of the set while it comes, against the same without a set."""
    image = case.image
    inside = set(case.order)
    outside = [page for page in range(image.pages) if page not in inside]
    touches = min(run.size(_OUTSIDE, 100), len(outside))
    hashes: dict[str, int] = {}
    with case.as_file(run.directory) as path, closing(userfault.Pager()) as pager:

        def turn(name: str, number: int) -> float:
            image.ensure_cached()
            order = array("I", random.Random(number).sample(outside, touches))
            with userfault.lazy(
                image.fd, policy=DEMAND, pager=pager, working_set=path if name == "replay" else ""
            ) as memory:
                found, took = run.native.touch_timed(memory.address, order, PAGE)
            hashes["ours" if name == "replay" else "plain, without a set"] = found
            return percentile([each / 1e3 for each in took], 0.99)

        figures = alternate(run.rounds, ("replay", "without"), turn)
    run.checks.same(f"restore {case.name}, faults outside", hashes)
    row = Row(
        "restore",
        f"{case.name}, a fault outside of the set while it comes, 99th percentile",
        "µs",
        0.0,
        ratio_of="of what it takes without a set",
        target=Target("<=", 2),
        rival_name="without",
    )
    run.rows.append(compare(row, figures["replay"], figures["without"]))
