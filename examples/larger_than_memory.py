"""Sum an array that is larger than the memory it may take, from a compressed store.

    python examples/larger_than_memory.py [GIB [BUDGET_MIB]]

By default 1 GiB in 64 MiB; with `64 512` it takes some minutes. The array is mostly zeros, so that
its image and its snapshot are small; in memory a zero takes as much as any other number. What
nobody wrote goes when its place is wanted.
"""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

import userfault
from userfault.snapshot.inputs.file import FileInput
from userfault.snapshot.packing.pack import pack
from userfault.snapshot.stores.opening import open_objects

MIB = 1 << 20


def image(path: Path, size: int) -> int:
    """A file of `size` bytes: a megabyte of ones in every 64, holes between.  The sum of it."""
    ones, total = np.ones(MIB // 8, dtype=np.int64), 0
    with path.open("wb") as file:
        file.truncate(size)
        for at in range(0, size - MIB + 1, 64 * MIB):
            os.pwrite(file.fileno(), ones.tobytes(), at)
            total += len(ones)
    return total


def main() -> None:
    """Pack it, then sum it."""
    size = int(float(sys.argv[1]) * 1024) * MIB if len(sys.argv) > 1 else 1024 * MIB
    budget = (int(sys.argv[2]) if len(sys.argv) > 2 else 64) * MIB
    with tempfile.TemporaryDirectory() as folder:
        expected = image(Path(folder) / "image", size)
        store = Path(folder) / "store"
        with contextlib.closing(FileInput(Path(folder) / "image")) as source:
            packed = pack(open_objects(store), "array", source)
        print(f"{size // MIB} MiB in a store of {packed.chunk_bytes // 1024} KiB")

        policy = userfault.Policy(resident_bytes=budget)
        began = time.perf_counter()
        memory = userfault.lazy(store / "array", policy=policy)
        array = np.frombuffer(memory, dtype=np.int64)
        total = sum(int(part.sum()) for part in np.array_split(array, max(size // (64 * MIB), 1)))
        found = memory.statistics()
        assert found.residency is not None
        print(f"the sum is right: {total == expected}, in {time.perf_counter() - began:.1f} s")
        print(f"in memory at the end: {found.residency.resident // MIB} MiB of {budget // MIB}")
        print(f"faults: {found.counters.faults}, pages taken out: {found.counters.evicted}")


if __name__ == "__main__":
    main()
