"""Clones: what do ten restores of one snapshot cost, and how soon is the tenth ready?

The image is that of `store`, of 512 MiB.  Each clone is a program of its own, with a pager of its
own: it restores with `Policy(share="on")`, is ready when everything is in, hashes its memory, then
writes one page in a hundred, at random.  All ten stay.  The rival is one clone that shares nothing.

Memory is what the kernel says (`Pss` of smaps, proc(5)): a page that several have mapped counts
once.  Asked twice: of the restored memory, with the whole keeper; and of all processes, which are
mostly interpreters, the clones' and their pagers'.  What the clones wrote (`Anonymous` of their
memory) is taken off.
"""

from __future__ import annotations

import contextlib
import os
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec

from bench import memories
from bench.images import PAGE
from bench.measure import Row, Target, compare
from bench.native import Native
from bench.run import Run
from userfault import Policy, lazy
from userfault.kernel.memtypes import MIB, size_name
from userfault.linux.pidfd import made_by
from userfault.linux.smaps import mapped_at, proportional
from userfault.pager.drivers.shared import asking, place

_CLONES = 10
_ONE_IN = 100  # pages written
_MEMORY, _READY = Target("<=", 1.3), Target("<=", 0.5)


class Clone(msgspec.Struct):
    """What a clone says of itself.  `address`: of its memory.  `processes`: its own and
    its pager's.  `keeper`: the process that holds its copy, 0 for none.
    """

    ready_s: float
    hash: int
    address: int
    written: int
    processes: list[int]
    keeper: int


def run(run: Run) -> None:
    """Rows into `run.rows`."""
    with memories.of_processes(run.directory, run.native, run.size(128, 1)) as image:
        if not run.fits("clones", 4 * image.length):
            return
        path = f"/proc/{os.getpid()}/fd/{image.fd}"
        store = run.directory / "clones-store"
        packing = [sys.executable, "-m", "bench.packing", path, str(store), "image", "1"]
        subprocess.run(packing, check=True, stdout=subprocess.DEVNULL, cwd=_ROOT)
        name = size_name(image.length)
    hashes: dict[str, int] = {}
    memory: tuple[list[float], list[float]] = [], []
    everything: tuple[list[float], list[float]] = [], []
    ready: tuple[list[float], list[float]] = [], []
    for number in range(max(run.rounds // 2, 1) + 1):
        with _clones(run.directory, f"{store}/image", 1, "off") as (alone,):
            one = _memory([alone]), _everything([alone])
        with _clones(run.directory, f"{store}/image", _CLONES, "on") as ten:
            all_ten = _memory(ten), _everything(ten)
        hashes |= {"one": alone.hash} | {f"clone {at}": each.hash for at, each in enumerate(ten)}
        if number:
            memory[0].append(all_ten[0])
            memory[1].append(one[0])
            everything[0].append(all_ten[1])
            everything[1].append(one[1])
            ready[0].append(ten[-1].ready_s * 1e3)
            ready[1].append(ten[0].ready_s * 1e3)
    run.checks.same("clones", hashes)
    case = f"ten clones of {name}, without what they wrote"
    row = Row("clones", case, "MiB", 0, target=_MEMORY, rival_name="one clone")
    run.rows.append(compare(row, *memory))
    row = Row("clones", f"the same with all processes of {_CLONES} clones and pagers", "MiB", 0)
    run.rows.append(compare(msgspec.structs.replace(row, rival_name="one clone"), *everything))
    row = Row("clones", "the tenth, until everything is in", "ms", 0, target=_READY)
    row = msgspec.structs.replace(row, rival_name="the first")
    run.rows.append(compare(row, *ready))


_ROOT = Path(__file__).parents[1]


@contextlib.contextmanager
def _clones(directory: Path, snapshot: str, count: int, share: str) -> Iterator[list[Clone]]:
    """So many clones, one after the other; all of them stay."""
    environment = {**os.environ, place.VARIABLE: str(directory / "clones-run")}
    command = [sys.executable, "-m", "bench.clones", snapshot, share]
    found = []
    with contextlib.ExitStack() as end:
        for _ in range(count):
            process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment, cwd=_ROOT
            )
            end.callback(process.communicate)  # which closes its standard input: then it ends
            assert process.stdout is not None
            found.append(msgspec.json.decode(process.stdout.readline(), type=Clone))
        yield found


def _memory(clones: list[Clone]) -> float:
    """MiB of what was restored, without what was written to it."""
    held = sum(mapped_at(clone.address, "Pss", clone.processes[0]) for clone in clones)
    held += sum(map(proportional, {clone.keeper for clone in clones if clone.keeper}))
    return (held - sum(clone.written for clone in clones)) / MIB


def _everything(clones: list[Clone]) -> float:
    """MiB of all processes, without what was written to what was restored."""
    processes = {pid for clone in clones for pid in [*clone.processes, clone.keeper] if pid}
    held = sum(map(proportional, processes))
    return (held - sum(clone.written for clone in clones)) / MIB


def _clone(snapshot: str, share: str) -> None:
    """The program of one clone."""
    start = time.perf_counter()
    with lazy(snapshot, policy=Policy(share=share), writable=True) as memory:
        memory.complete()
        ready = time.perf_counter() - start
        native = Native(Path(os.environ[place.VARIABLE]).parent)
        hashed = native.hash(memory.address, len(memory))
        before = mapped_at(memory.address, "Anonymous")
        pages = len(memory) // PAGE
        for page in random.sample(range(pages), pages // _ONE_IN):
            memory[page * PAGE] = 0xFF
        # Without sharing all of it is anonymous, and what is written takes nothing more.
        written = mapped_at(memory.address, "Anonymous") - before
        pager = [pid for pid in memory._parts.pager.processes().values() if pid]
        pager += [child for pid in pager for child in _children(pid)]
        processes = [os.getpid(), *set(pager)]
        clone = Clone(ready, hashed, memory.address, written, processes, _keeper(share))
        print(msgspec.json.encode(clone).decode(), flush=True)
        sys.stdin.read()


def _children(pid: int) -> list[int]:
    return list(map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split()))


def _keeper(share: str) -> int:
    if share == "off":
        return 0
    with place.folder() as folder:
        channel = asking.connected(folder)
        assert channel is not None
        with channel:
            return made_by(channel).pid


if __name__ == "__main__":
    _clone(*sys.argv[1:])
