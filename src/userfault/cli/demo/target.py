"""The process that the demo captures: it builds ordinary data structures, then waits.

Started by `userfault demo`; says `ready` on its standard output when it has built enough, and ends
when its standard input does.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import random
import sys
from collections.abc import Callable, Iterator
from typing import Any

MIB = 1 << 20
_ROUND = 8 * MIB  # how much is built between two looks at the memory in use


def main() -> None:
    """Build `argv[1]` MiB of data, say so, wait to be told to go."""
    gc.disable()  # nothing here is garbage: collections would only slow the building down
    held = build(int(sys.argv[1]) * MIB)
    print("ready", flush=True)
    sys.stdin.buffer.read()
    held.clear()
    os._exit(0)


def build(size: int) -> list[Any]:
    """Data structures that take at least `size` bytes of memory, of kinds that take turns."""
    rng = random.Random(20)
    builders: list[Callable[[random.Random], Iterator[Any]]] = [
        _accounts,
        _documents,
        _tree,
        _blobs,
        _database,
    ]
    held: list[Any] = []
    floor = resident()
    while True:
        for builder in builders:
            goal = resident() + _ROUND
            for thing in builder(rng):
                held.append(thing)
                if resident() >= goal:
                    break
            if resident() - floor >= size:
                return held


def resident() -> int:
    """Bytes of memory in use: the resident set, page tables aside (proc_pid_statm(5))."""
    with open("/proc/self/statm", "rb") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def _accounts(rng: random.Random) -> Iterator[Any]:
    """Dictionaries of dictionaries, keyed by strings."""
    while True:
        yield {
            f"account-{rng.getrandbits(40):010x}": {
                "owner": f"user {number}",
                "balance": rng.random() * 1e6,
                "history": [rng.getrandbits(30) for _ in range(8)],
                "open": number % 3 == 0,
            }
            for number in range(1000)
        }


def _documents(rng: random.Random) -> Iterator[Any]:
    """JSON documents, each parsed, with its text beside it."""
    words = ["page", "fault", "memory", "kernel", "restore", "snapshot", "lazy", "pager", "folio"]
    while True:
        text = json.dumps(
            [
                {
                    "id": rng.getrandbits(48),
                    "tags": rng.choices(words, k=4),
                    "title": " ".join(words),
                }
                for _ in range(800)
            ]
        )
        yield text, json.loads(text)


def _tree(rng: random.Random) -> Iterator[Any]:
    """Binary trees of lists: nothing but pointers."""
    while True:
        root: list[Any] = [rng.getrandbits(62), None, None]
        for _ in range(4000):
            _insert(root, rng.getrandbits(62))
        yield root


def _insert(node: list[Any], key: int) -> None:
    while True:
        side = 1 if key < node[0] else 2
        if node[side] is None:
            node[side] = [key, None, None]
            return
        node = node[side]


def _blobs(rng: random.Random) -> Iterator[Any]:
    """Byte strings: half of them compress, and a buffer that is not written yet."""
    while True:
        yield [rng.randbytes(64 << 10), b"userfault demo " * 4096, bytearray(32 << 10)]


def _database(rng: random.Random) -> Iterator[Any]:
    """An SQLite database in memory, with an index."""
    with contextlib.suppress(ImportError):  # some builds of Python lack it; the rest will do
        import sqlite3  # noqa: PLC0415

        database = sqlite3.connect(":memory:")
        database.execute("create table item (id integer primary key, name text, value real)")
        database.execute("create index by_name on item (name)")
        while True:
            database.executemany(
                "insert into item (name, value) values (?, ?)",
                [(f"item {rng.getrandbits(44):011x}", rng.random()) for _ in range(5000)],
            )
            yield database


if __name__ == "__main__":
    main()
