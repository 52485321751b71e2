"""NumPy over lazy memory: the array is there at once, its pages come when they are used."""

from __future__ import annotations

import tempfile

import userfault


def main() -> None:
    """Write a matrix to a file, map it lazily and writable, and compute with parts of it."""
    try:
        import numpy as np  # noqa: PLC0415  (so that its absence is no failure)
    except ImportError:
        print("skipped: this example needs NumPy (pip install userfault[numpy])")
        return

    rows, columns = 4096, 1024
    with tempfile.NamedTemporaryFile() as file:
        np.arange(rows * columns, dtype=np.float64).tofile(file)
        file.flush()
        policy = userfault.Policy(background=False)
        # Writes stay in the memory: the file keeps what it has.
        with userfault.lazy(file.name, writable=True, policy=policy) as memory:
            matrix = np.frombuffer(memory, dtype=np.float64).reshape(rows, columns)
            print("mean of row 1000:", matrix[1000].mean())
            matrix[1000] = 0
            print("mean after writing zeros:", matrix[1000].mean())
            present = memory.statistics().states["present"]
            print("pages present:", present, "of", memory.statistics().pages)
            print("sum of all:", matrix.sum())
            print("faults:", memory.statistics().counters.faults)
            del matrix


if __name__ == "__main__":
    main()
