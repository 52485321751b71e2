"""Store: packing real memory, and restoring it from a local compressed store.

The images are the memory of processes that did some work (a database, syntax trees, documents,
numbers), captured while they stood; and any file that `--image` names.

* Pack: zstd level 1, bound to one CPU, on a store that is empty; memory is the peak of the
  process.  Size is that of all files of the store, beside `zstd -1` of the raw image.
* Full restore: from `complete()` until it returns, beside `zstd -d -c FILE >/dev/null` bound to one
  CPU (from its start to its end), and beside one UFFDIO_COPY of the whole raw image by C.  Ours
  verifies every chunk, decompresses it and fills the memory, on whatever CPUs it finds.  The ratio
  is with the slower of the two in each round.
* First touch: a page of a chunk that was not unpacked before, in random order, without background
  fill; once with the thread bound to a CPU, once without.

All files are in the page cache.  Not asked here: remote stores, cold disks.
"""

from __future__ import annotations

import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from array import array
from contextlib import closing
from pathlib import Path

import msgspec

import userfault
from bench import memories
from bench.images import PAGE, Image
from bench.machine import cpus, unbind
from bench.measure import Row, Target, alternate, compare, percentile
from bench.packing import Took
from bench.run import Run
from bench.sides import DEMAND, Rival
from userfault.kernel.memtypes import MIB, size_name
from userfault.snapshot.format.runs import Kind
from userfault.snapshot.serving.image import open_image
from userfault.snapshot.stores.opening import open_objects

_FULL, _TOUCH, _PACK, _SIZE = (
    Target(">=", 0.8),
    Target("<=", 400),
    Target(">=", 300),
    Target("<=", 1),
)
_MB = 1e6


class ToolMissingError(Exception):
    """The rival `zstd` is not installed."""


class Subject(msgspec.Struct):
    """One image, its name in reports, and a folder for it.  `store`: where it was packed last."""

    image: Image
    name: str
    folder: Path
    store: Path = Path()

    @property
    def compressed(self) -> Path:
        """The image, compressed by `zstd -1`."""
        return self.folder / "image.zst"

    @property
    def snapshot(self) -> str:
        """What `lazy` takes."""
        return f"{self.store}/image"


def run(run: Run) -> None:
    """Rows into `run.rows`."""
    if shutil.which("zstd") is None:
        raise ToolMissingError("`zstd` is not installed: it is what ours is compared with")
    with memories.of_processes(run.directory, run.native, run.size(128, 1)) as image:
        _subject(run, image, f"memory of 4 processes, {size_name(image.length)}")
    for path in run.images:
        with memories.of_file(path, run.native) as image:
            _subject(run, image, f"{path.name}, {size_name(image.length)}")


def _subject(run: Run, image: Image, name: str) -> None:
    folder = Path(tempfile.mkdtemp(dir=run.directory))
    subject = Subject(image, name, folder)
    try:
        _pack(run, subject)
        _restore(run, subject)
        for bound in (True, False):
            _first_touch(run, subject, bound=bound)
    finally:
        unbind()


# --- pack ----------------------------------------------------------------------------------------


def _pack(run: Run, subject: Subject) -> None:
    image = subject.image
    speeds, shares, peaks, theirs = [], [], [], []
    for number in range(max(run.rounds // 2, 1) + 1):
        image.ensure_cached()
        # A new one each time, and nothing is removed: ext4 looks through all inodes that were
        # removed in the last five seconds whenever it makes one (fs/ext4/ialloc.c).
        subject.store = subject.folder / f"store-{number}"
        took = _packed(subject)
        start = time.perf_counter()
        _on_one_cpu(
            ["zstd", "-1", "-q", "-f", _path_of(image), "-o", str(subject.compressed)], image
        )
        if number:
            theirs.append(image.length / _MB / (time.perf_counter() - start))
            speeds.append(image.length / _MB / took.wall_s)
            shares.append(took.cpu_s / took.wall_s)
            peaks.append(took.peak)
    row = Row(
        "store",
        f"pack on one CPU, level 1: {subject.name}",
        "MB/s",
        statistics.median(speeds),
        target=_PACK,
        rounds=len(speeds),
        note=f"peak memory {max(peaks) / MIB:.0f} MiB; of the time {statistics.median(shares):.0%}"
        f" on the CPU; zstd -1 on one CPU {statistics.median(theirs):.0f} MB/s",
    )
    run.rows.append(row)
    size = sum(path.stat().st_size for path in subject.store.rglob("*") if path.is_file())
    compressed = subject.compressed.stat().st_size
    run.rows.append(
        Row(
            "store",
            f"size of the store: {subject.name}",
            "MiB",
            size / MIB,
            compressed / MIB,
            ratio=size / compressed,
            spread=(size / compressed, size / compressed),
            ratio_of="ours / zstd -1",
            target=_SIZE,
            rival_name="zstd -1",
            rounds=1,
        )
    )


def _path_of(image: Image) -> str:
    """A path of the image, which has no name, for processes that inherit its descriptor."""
    return f"/proc/self/fd/{image.fd}"


def _on_one_cpu(command: list[str], image: Image) -> bytes:
    bound = ["taskset", "-c", str(max(cpus())), *command]
    root = Path(__file__).parents[1]
    return subprocess.run(
        bound, check=True, stdout=subprocess.PIPE, pass_fds=[image.fd], cwd=root
    ).stdout


def _packed(subject: Subject) -> Took:
    """Pack in a process of its own, bound to one CPU."""
    arguments = [_path_of(subject.image), str(subject.store), "image", "1"]
    command = [sys.executable, "-m", "bench.packing", *arguments]
    return msgspec.json.decode(_on_one_cpu(command, subject.image), type=Took)


# --- full restore --------------------------------------------------------------------------------


def _restore(run: Run, subject: Subject) -> None:
    image = subject.image
    hashes: dict[str, int] = {}
    with closing(userfault.Pager()) as pager, closing(Rival(run.native)) as rival:

        def ours(number: int) -> float:
            with userfault.lazy(subject.snapshot, policy=DEMAND, pager=pager) as memory:
                start = time.perf_counter()
                memory.complete()
                took = time.perf_counter() - start
                if number == 0:
                    hashes["ours"] = run.native.hash(memory.address, image.length)
            return took

        def zstd(number: int) -> float:
            if number == 0:
                hashes["zstd"] = _hash_of_zstd(run, subject)
            # What `zstd -d -c FILE >/dev/null` takes, bound to one CPU.
            with open(os.devnull, "wb") as null:
                start = time.perf_counter()
                subprocess.run(
                    ["taskset", "-c", str(max(cpus())), "zstd", "-d", "-c", subject.compressed],
                    stdout=null,
                    check=True,
                )
                return time.perf_counter() - start

        def copy(number: int) -> float:
            with rival.mapped(image) as memory:
                took = memory.fill()
                if number == 0:
                    hashes["C"] = run.native.hash(memory.address, image.length)
            return took

        turns = {"ours": ours, "zstd": zstd, "COPY": copy}

        def turn(name: str, number: int) -> float:
            _cache(subject)
            run.native.warm(image.length + image.length // 4)
            return image.length / _MB / turns[name](number)

        figures = alternate(run.rounds, turns, turn)
    run.checks.same(f"store {subject.name}", {**hashes, "source": image.hash})
    slower = [min(pair) for pair in zip(figures["zstd"], figures["COPY"], strict=True)]
    note = ", ".join(f"{name} {statistics.median(figures[name]):.0f}" for name in turns)
    row = Row(
        "store",
        f"full restore: {subject.name}",
        "MB/s",
        0.0,
        ratio_of="ours / slower of zstd -d and COPY",
        target=_FULL,
        rival_name="slower of zstd -d and COPY",
        note=note,
    )
    run.rows.append(compare(row, figures["ours"], slower))


def _hash_of_zstd(run: Run, subject: Subject) -> int:
    data = subprocess.run(
        ["zstd", "-d", "-c", subject.compressed], stdout=subprocess.PIPE, check=True
    ).stdout
    held = array("B", data)
    return run.native.hash(held.buffer_info()[0], subject.image.length)


def _cache(subject: Subject) -> None:
    """Have everything that is read in the page cache."""
    subject.image.ensure_cached()
    for path in (subject.compressed, *subject.store.rglob("*")):
        if path.is_file():
            path.read_bytes()


# --- first touch ---------------------------------------------------------------------------------


def _first_touch(run: Run, subject: Subject, *, bound: bool) -> None:
    """One page of each chunk, in random order."""
    medians, tails, faults = [], [], 0
    # Each touch is to be a fault, whatever came around the ones before it.
    policy = msgspec.structs.replace(DEMAND, fill_around="order")
    if bound:
        os.sched_setaffinity(0, {min(cpus())})
    with closing(userfault.Pager()) as pager:
        for number in range(run.rounds + 1):
            _cache(subject)
            order = array("I", _a_page_of_each_chunk(subject, number)[:2000])
            with userfault.lazy(subject.snapshot, policy=policy, pager=pager) as memory:
                _, took = run.native.touch_timed(memory.address, order, PAGE)
                faults = memory.statistics().counters.faults
                if faults != len(order):
                    raise AssertionError(f"{len(order)} touches made {faults} faults")
            if number:
                took_us = [each / 1e3 for each in took]
                medians.append(statistics.median(took_us))
                tails.append(percentile(took_us, 0.99))
    unbind()
    run.rows.append(
        Row(
            "store",
            f"first touch of a chunk, {'thread bound to a CPU' if bound else 'nobody bound'}:"
            f" {subject.name}",
            "µs, p50",
            statistics.median(medians),
            target=_TOUCH,
            rounds=len(medians),
            note=f"p99 {statistics.median(tails):.0f} µs; {faults} chunks a round",
        )
    )


def _a_page_of_each_chunk(subject: Subject, seed: int) -> list[int]:
    image = open_image(open_objects(subject.store), "image")
    pages: dict[int, list[int]] = {}
    for extent in image.extents(0, image.pages):
        if extent.kind is Kind.CHUNK:
            pages.setdefault(extent.chunk, []).extend(
                range(extent.page, extent.page + extent.count)
            )
    dice = random.Random(seed)
    chosen = [dice.choice(each) for each in pages.values()]
    dice.shuffle(chosen)
    return chosen
