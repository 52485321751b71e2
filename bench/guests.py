"""What a QEMU guest touches first after a restore, with the memory that it is restored from.

The guest (`qemu.py`) is saved once, and restored by `userfault exec` with a page a fault, which
records the working set.  A set knows when a page was touched first only coarsely; within a class
the order is by chance, always the same.
"""

from __future__ import annotations

import os
import random
import sys
from pathlib import Path

from bench.frozen import Frozen
from bench.images import Image
from bench.native import Native
from bench.qemu import Saved
from bench.waiting import wait_until
from userfault.lab.store import Kernel
from userfault.snapshot.format.first_touch import ends
from userfault.snapshot.format.working_set import decode

_SAVED_S = 120.0


def guest(directory: Path, native: Native, kernel: Kernel, ticks: int) -> Frozen:
    """A guest that counts, and has said `ticks` lines after its restore.  Raises NoQemu."""
    folder = directory / "guest"
    folder.mkdir()
    saved, held = Saved(kernel, folder, blocks=ticks), folder / "set"
    clone = folder / "clone"
    before = [sys.executable, "-m", "userfault", "exec", "--map", f"{clone}={saved.memory}"]
    before += ["--fill-around", "page", "--record", "always", "--working-set", str(held), "--"]
    with saved.restored(clone, before=before) as machine:
        machine.ticks(ticks)
    wait_until(held.exists, _SAVED_S, "no working set was recorded")
    classes = decode(held.read_bytes(), "the guest's working set").classes
    touches: list[tuple[int, float]] = []
    for number, pages in enumerate(classes):
        some = list(pages)
        random.Random(number).shuffle(some)
        begin = ends(number - 1) if number else 0.0
        touches += [(page, begin) for page in some]
    image = Image.of(os.open(saved.memory, os.O_RDONLY), native)
    return Frozen("a QEMU guest", image, touches)
