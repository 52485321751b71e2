"""Programs whose memory makes the images of `bench store` and `bench restore`: each does what such
programs do.

Run as `python -m bench.programs NAME MIB`: it fills about that much memory, says so on standard
output, and waits until its standard input ends.  The database serves a while for each line there.
"""

from __future__ import annotations

import ast
import json
import math
import random
import sqlite3
import sys
import sysconfig
from array import array
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from userfault.kernel.memtypes import MIB


def sources() -> Iterator[str]:
    """The sources of Python's standard library, for ever."""
    files = sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py"))
    while True:
        for path in files:
            yield path.read_text(encoding="utf-8", errors="replace")


def database(size: int) -> Any:
    """A table with an index, in memory: lines of text, numbers, and random keys."""
    held = sqlite3.connect(":memory:")
    held.execute("create table lines (key blob primary key, line text, number integer)")
    dice = random.Random(size)
    for source in sources():
        rows = [(dice.randbytes(16), line, dice.getrandbits(40)) for line in source.splitlines()]
        held.executemany("insert into lines values (?, ?, ?)", rows)
        pages = held.execute("pragma page_count").fetchone()[0]
        if pages * held.execute("pragma page_size").fetchone()[0] >= size:
            return held
    return None


def objects(size: int) -> Any:
    """Syntax trees: many small objects that point to one another."""
    held = []
    used = 0
    for source in sources():
        held.append(ast.parse(source))
        used += 40 * len(source)  # what a tree takes for each byte of its source, about
        if used >= size:
            break
    return held


def documents(size: int) -> Any:
    """Text, its lines as a list, and JSON made of it and parsed again."""
    held = []
    used = 0
    for source in sources():
        lines = source.splitlines()
        text = json.dumps({"lines": lines, "count": len(lines)})
        held.append((source, lines, json.loads(text)))
        used += 4 * len(source)
        if used >= size:
            break
    return held


def numbers(size: int) -> Any:
    """Measured values, as floating-point numbers: they go up and down by chance."""
    dice = random.Random(size)
    held = array("d")
    while 8 * len(held) < size:
        piece = array("d", (math.sin(at / 100) + dice.gauss(0, 0.01) for at in range(4096)))
        held.extend(array("d", (round(value, 4) for value in piece)))
    return held


PROGRAMS: dict[str, Callable[[int], Any]] = {
    "database": database,
    "objects": objects,
    "documents": documents,
    "numbers": numbers,
}


def main() -> None:
    """Fill memory, say so, wait."""
    held = PROGRAMS[sys.argv[1]](int(sys.argv[2]) * MIB)
    print("filled", flush=True)
    for _ in sys.stdin:
        serve(held)
        print("served", flush=True)
    del held


def serve(held: Any) -> None:
    """A while of what a database is for: rows by key, a scan of a part, and rows that change."""
    dice = random.Random(1)
    keys = [key for (key,) in held.execute("select key from lines limit 200000")]
    wanted = "select line, number from lines where key = ?"
    for key in dice.sample(keys, len(keys) // 80):
        held.execute(wanted, (key,)).fetchone()
    held.execute("select sum(number) from lines where rowid < 20000").fetchone()
    for key in dice.sample(keys, len(keys) // 1000):
        held.execute("update lines set number = number + 1 where key = ?", (key,))


if __name__ == "__main__":
    main()
