"""Guests: how fast do a virtual machine's pages come, served by our pager and by a handler in C?

A guest of KVM with one CPU, in user mode, reads each page of its memory once, in random order; the
memory is anonymous, and filled from a file in the page cache.  Both sides run the same guest over
memory that they have registered; the time is from KVM_RUN to the guest's last page.  Ours runs one
page a fault as C does (no target: what one fault costs is asked in `latency`), without background
fill, and as shipped.  The figure is pages a second.

Not asked here: how long it takes to bring a machine up; several CPUs; a guest that writes.
"""

from __future__ import annotations

import ctypes
import time
from contextlib import closing

import userfault
from bench.images import PAGE, Image
from bench.machine import Placement, placements, unbind
from bench.measure import Row, Target, alternate, compare
from bench.run import Run
from bench.sides import DEMAND, Ours, Rival, Side
from userfault.kernel.errors import MemoryUnavailable
from userfault.kernel.memtypes import MIB, size_name
from userfault.linux.kvm import Vm
from userfault.vmm.machine import Machine
from userfault.vmm.program import Walk

TARGET = Target(">=", 0.8)
_GUEST_S = 300
_PAGE = userfault.Policy(background=False, record="never", fill_around="page")
_OURS = {"ours": "one page a fault", "demand": "background=False", "default": "default policy"}


def run(run: Run) -> None:
    """Rows into `run.rows`."""
    size = run.size(256 * MIB, 4 * MIB)
    try:
        Vm().close()
    except MemoryUnavailable as error:
        run.left_out.append(f"vm: {error}")
        return
    if not run.fits("vm", 3 * size):
        return
    run.native.warm(2 * size)
    with (
        Image.file(run.directory, size // PAGE, run.native) as image,
        closing(Ours(_PAGE)) as page,
        closing(Ours(DEMAND)) as demand,
        closing(Ours(userfault.Policy())) as default,
        closing(Rival(run.native)) as rival,
    ):
        sides: dict[str, Side] = {"ours": page, "demand": demand, "default": default, "C": rival}
        for placement in placements().values():
            _walks(run, image, sides, placement)
    unbind()


def _walks(run: Run, image: Image, sides: dict[str, Side], placement: Placement) -> None:
    sums: dict[str, int] = {}
    walk = Walk(image.pages, pattern="random")

    def turn(name: str, number: int) -> float:
        del number
        placement.put(sides[name].pid)
        image.ensure_cached()
        with sides[name].mapped(image) as memory:
            shown = (ctypes.c_char * image.length).from_address(memory.address)
            with Machine([shown]) as machine:  # its threads are where this one is
                start = time.perf_counter()
                (sums[name],) = machine.run([walk], _GUEST_S)
                took = time.perf_counter() - start
        return image.pages / took

    figures = alternate(run.rounds, sides, turn)
    run.checks.same(f"vm random, {placement.name}", sums)
    for name, says in _OURS.items():
        row = Row(
            "vm",
            f"a guest's random walk over {size_name(image.length)}, {says}, {placement.says}",
            "pages/s",
            0.0,
            ratio_of="of C",
            target=TARGET if name != "ours" else None,  # one page a fault: that is `latency`
        )
        run.rows.append(compare(row, figures[name], figures["C"]))
