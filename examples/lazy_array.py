"""A large array that is there at once: NumPy over a snapshot in a store, or over any source."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import userfault
from userfault.snapshot.inputs.file import FileInput
from userfault.snapshot.packing.pack import pack
from userfault.snapshot.stores.opening import open_objects


def main() -> None:
    """Store a matrix, and compute with some of its rows."""
    try:
        import numpy as np  # noqa: PLC0415  (so that its absence is no failure)
    except ImportError:
        print("skipped: this example needs NumPy (pip install userfault[numpy])")
        return

    shape = 4096, 1024
    with tempfile.TemporaryDirectory() as folder:
        raw, store = Path(folder) / "matrix", Path(folder) / "store"
        np.arange(shape[0] * shape[1], dtype=np.float64).tofile(raw)
        source = FileInput(raw)
        packed = pack(open_objects(store), "matrix", source)
        source.close()
        print(f"{packed.length >> 20} MiB are {packed.chunk_bytes >> 10} KiB in the store")

        policy = userfault.Policy(background=False)
        matrix = userfault.lazy_array(store / "matrix", shape, np.float64, policy=policy)
        print("mean of row 1000:", matrix[1000].mean())
        memory: Any = matrix.base  # the LazyMemory; NumPy's types know arrays only
        print("pages present:", memory.statistics().states["present"], "of", packed.pages)
        print("sum of all:", matrix.sum())
        del matrix, memory  # the memory, its pager and everything else go with the array

        try:
            userfault.lazy_array(store / "matrix", (4096, 1000), np.float64)
        except userfault.UsageError as error:
            print("another shape:", error)


if __name__ == "__main__":
    main()
