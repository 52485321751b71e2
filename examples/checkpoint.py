"""Train something, keep its arrays in a store, lose the program, go on from the last step.

Run: python examples/checkpoint.py
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy

import userfault

STEPS = 5
ROWS, COLUMNS = 2000, 1000


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        store = Path(folder) / "store"
        train(store)
        go_on(store)


def train(store: Path) -> None:
    """Each step changes a few rows; each save stores the pages of these."""
    weights = numpy.random.default_rng(1).random((ROWS, COLUMNS))
    with userfault.Checkpoint(store, "model") as checkpoint:
        for step in range(STEPS):
            weights[step * 3 : step * 3 + 3] *= 0.5
            saved = checkpoint.save(weights=weights, step=step)
            print(
                f"{saved.name}: {saved.stored} of {saved.pages} pages, {saved.bytes:,} bytes;"
                f" stood still for {saved.stopped_s * 1000:.1f} ms"
            )


def go_on(store: Path) -> None:
    """As another program would: the arrays are there at once, their pages when they are touched."""
    with userfault.Checkpoint(store, "model") as checkpoint:
        arrays = checkpoint.load()
        weights, step = arrays["weights"], int(arrays["step"])
        print(f"going on after step {step}: {weights.shape} {weights.dtype}, {weights[0, 0]:.6f}")
        assert step == STEPS - 1
        weights[0] = 0
        saved = checkpoint.save(weights=weights, step=step + 1)
        print(f"{saved.name}: {saved.stored} pages on {saved.base}")
        first = checkpoint.load(at=1)
        assert int(first["step"]) == 0


if __name__ == "__main__":
    main()
