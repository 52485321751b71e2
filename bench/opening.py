"""Opening: how long from calling `lazy()` to a byte in the middle, of a file and of packed images?

With a pager of its own (a new process), and with one that runs already: of a file, of the same
packed into a store, and of a layer on that, in which one page in a hundred is another.  The targets
are absolute, for ours alone, but for the layer, which is compared with the packed image.

Not asked here: the cost of the first import of the package in the client; remote stores.
"""

from __future__ import annotations

import os
import statistics
import time
from array import array
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import userfault
from bench.images import PAGE, Image
from bench.machine import unbind
from bench.measure import Row, Target, alternate, compare
from bench.run import Run
from userfault.kernel.memtypes import MIB, size_name
from userfault.snapshot.inputs.file import FileInput
from userfault.snapshot.packing.pack import pack
from userfault.snapshot.stores.opening import open_objects

_EVERY = 100  # one page in so many is another in the layer
_TARGETS = {
    ("file", False): None,
    ("packed", False): Target("<=", 60),
    ("layer", False): Target("<=", 1.2),
    ("file", True): Target("<=", 3),
    ("packed", True): Target("<=", 5),
    ("layer", True): Target("<=", 1.2),
}


def run(run: Run) -> None:
    """Rows into `run.rows`."""
    rounds = max(run.rounds, run.size(20, 2))
    unbind()
    length = run.size(256 * MIB, 4 * MIB)
    places = _pack(run, length)
    middle = array("I", [length // PAGE // 2 + 1])  # no page that is another in the layer
    for shared in (False, True):
        hashes: dict[str, int] = {}
        with ExitStack() as stack:
            pager = stack.enter_context(userfault.Pager()) if shared else None

            def turn(name: str, _: int, pager: userfault.Pager | None = pager) -> float:
                start = time.perf_counter()
                with userfault.lazy(places[name], pager=pager) as memory:
                    hashes[name] = run.native.touch(memory.address, middle, PAGE)  # noqa: B023
                    return (time.perf_counter() - start) * 1e3

            figures = alternate(rounds, places, turn)
        what = "shared pager" if shared else "new pager"
        run.checks.same(f"opening {what}", hashes)
        run.rows.extend(_rows(figures, what, length, shared=shared))


def _pack(run: Run, length: int) -> dict[str, Path]:
    """What is opened, by name."""
    plain, changed = run.directory / "opened", run.directory / "changed"
    with Image.file(run.directory, length // PAGE, run.native) as image:
        _copy(image.fd, length, plain, lambda data, _: data)
        _copy(image.fd, length, changed, _another)
    store = run.directory / "store-opened"
    objects = open_objects(str(store))
    for name, path, base in (("packed", plain, None), ("layer", changed, "packed")):
        source = FileInput(str(path))
        pack(objects, name, source, level=1, base=base)
        source.close()
    changed.unlink()
    return {"file": plain, "packed": store / "packed", "layer": store / "layer"}


def _copy(fd: int, length: int, to: Path, change: Callable[[bytes, int], bytes]) -> None:
    with open(to, "wb") as file:
        for at in range(0, length, PAGE):
            file.write(change(os.pread(fd, PAGE, at), at // PAGE))
        file.flush()
        os.fsync(file.fileno())


def _another(data: bytes, page: int) -> bytes:
    return data if page % _EVERY else b"another " + data[8:]


def _rows(figures: dict[str, list[float]], what: str, length: int, *, shared: bool) -> list[Row]:
    rows = []
    for name, says in (
        ("file", "a file"),
        ("packed", "packed"),
        ("layer", f"a layer of 1/{_EVERY}"),
    ):
        row = Row(
            "opening",
            f"{says}, {size_name(length)}, {what}",
            "ms",
            statistics.median(figures[name]),
            target=_TARGETS[name, shared],
            rounds=len(figures[name]),
            rival_name="packed",
            ratio_of="layer / packed" if name == "layer" else "",
        )
        if name == "layer":
            row = compare(row, figures["layer"], figures["packed"])
        rows.append(row)
    return rows
