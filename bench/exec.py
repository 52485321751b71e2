"""Exec: how soon does a QEMU guest of 256 MiB answer, when its memory lies in a compressed store?

The guest (`qemu.py`) is saved once; the clock runs from the first command to its first output.
The rival has the memory file copied out of the store first (`userfault export`), and maps that.
Ours is `userfault exec --map`: `cost`, as it is by default; and with `--fill-around page`, by which
a touched page brings what lies in the same chunk and nothing else is read ahead, on two CPUs that
the guest has need of: `page`; with what an earlier restore touched coming ahead, `set`; and that
in a store which is laid out by it (`userfault pack --order`).  `in place` is what no way of coming
to the memory can beat: the same QEMU, with a copy of the file that was made before the clock ran.
The guest is emulated, and where the CPU can run it, it has rows on the CPU itself (KVM), too.  All
bytes are in the page cache.
Asked for by name alone: it boots a guest (a kernel of the lab: `userfault lab fetch trixie`).
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from pathlib import Path

from bench.measure import Row, Target, alternate, compare
from bench.qemu import KVM, TCG, Saved, Tick, no_kvm
from bench.run import Run
from bench.waiting import wait_until
from userfault.lab.machine import NoQemu
from userfault.lab.store import Kernel, Store

_SOONER, _SET = Target(">=", 2.0), Target(">=", 1.5)
_USERFAULT = [sys.executable, "-m", "userfault"]
_TICKS = 3
_SAVED_S = 30.0
_SIDES = ("copied", "in place", "cost", "page", "set", "laid out")


class Sides:
    """The guest in `folder`, restored in each of the ways."""

    def __init__(self, folder: Path, saved: Saved) -> None:
        self._folder = folder
        self._saved = saved
        self._memory = folder / "clone"
        self.read: dict[str, int] = {}
        self._pack("store")
        self._record("store")
        self._pack("ordered", "--order", f"{folder}/store/guest")
        self._record("ordered")

    def turn(self, side: str, number: int) -> float:
        """Seconds until it answers."""
        del number
        self._memory.unlink(missing_ok=True)
        if side == "in place":
            shutil.copyfile(self._saved.memory, self._memory)
        began = time.perf_counter()
        before: list[str] = []
        if side == "copied":
            self._userfault("export", f"{self._folder}/store/guest", str(self._memory))
        elif side != "in place":
            before = self._exec("ordered" if side == "laid out" else "store")
            before += ["--fill-around", "cost" if side == "cost" else "page"]
            if side in ("cost", "page"):
                before += ["--record", "never", "--working-set", ""]
            before.append("--")
        with self._saved.restored(self._memory, before=before) as machine:
            machine.ticks(1)
            took = time.perf_counter() - began
            self.read[side] = _sum(machine.ticks(_TICKS)[:_TICKS])
        return took

    def _exec(self, store: str) -> list[str]:
        return [*_USERFAULT, "exec", "--map", f"{self._memory}={self._folder}/{store}/guest"]

    def _pack(self, store: str, *more: str) -> None:
        target = f"{self._folder}/{store}/guest"
        self._userfault("pack", str(self._saved.memory), target, *more)

    def _record(self, store: str) -> None:
        """Its working set, by a first restore."""
        with self._saved.restored(self._memory, before=[*self._exec(store), "--"]) as machine:
            machine.ticks(1)
        show = [*_USERFAULT, "record", "show", f"{self._folder}/{store}/guest"]

        def recorded() -> bool:
            return not subprocess.run(show, capture_output=True, check=False).returncode

        wait_until(recorded, _SAVED_S, "no working set was recorded")

    def _userfault(self, *words: str) -> None:
        subprocess.run([*_USERFAULT, *words], check=True, stdout=subprocess.DEVNULL)


def run(run: Run) -> None:
    """Rows into `run.rows`."""
    kernels = Store().kernels()
    if not kernels:
        run.left_out.append("exec: needs a kernel of the lab: userfault lab fetch trixie")
        return
    absent = no_kvm()
    if absent:
        run.left_out.append(f"exec: no rows on KVM: {absent}")
    try:
        for accelerator in (TCG,) if absent else (TCG, KVM):
            _measure(run, kernels[-1], accelerator)
    except NoQemu as error:
        run.left_out.append(f"exec: {error}")


def _measure(run: Run, kernel: Kernel, accelerator: str) -> None:
    folder = run.directory / f"exec-{accelerator}"
    folder.mkdir()
    blocks = run.size(64, 2)
    sides = Sides(folder, Saved(kernel, folder, blocks=blocks, accelerator=accelerator))
    took = alternate(run.rounds, _SIDES, sides.turn)
    shutil.rmtree(folder)
    run.checks.same(f"exec, {accelerator}", sides.read)
    for side, rival, target in (
        ("in place", "copied", None),
        ("cost", "copied", None),
        ("page", "copied", _SOONER),
        ("set", "copied", None),
        ("laid out", "copied", None),
        ("in place", "page", None),
        ("set", "page", _SET),
        ("laid out", "page", _SET),
    ):
        row = Row(
            "exec",
            f"{accelerator}: {side}, against {rival}",
            "ms",
            0.0,
            ratio_of="how many times sooner",
            target=target,
            rival_name=rival,
        )
        ours, theirs = ([each * 1e3 for each in took[name]] for name in (side, rival))
        run.rows.append(compare(row, ours, theirs, inverse=True))


def _sum(ticks: list[Tick]) -> int:
    """What they said, as a number."""
    return hash(tuple((tick.number, tick.digest) for tick in ticks)) & (1 << 64) - 1
