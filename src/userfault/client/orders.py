"""In which order pages are touched."""

from __future__ import annotations

import random
from collections.abc import Callable

_CHUNK = 16


def _sequential(pages: int, step: int, draw: random.Random) -> list[int]:
    del step, draw
    return list(range(pages))


def _reverse(pages: int, step: int, draw: random.Random) -> list[int]:
    del step, draw
    return list(range(pages - 1, -1, -1))


def _random(pages: int, step: int, draw: random.Random) -> list[int]:
    del step
    found = list(range(pages))
    draw.shuffle(found)
    return found


def _stride(pages: int, step: int, draw: random.Random) -> list[int]:
    """Every `step`-th page, then those one further on, and so on."""
    del draw
    return [page for first in range(min(step, pages)) for page in range(first, pages, step)]


def _ends(pages: int, step: int, draw: random.Random) -> list[int]:
    """From both ends to the middle, in turn."""
    del step, draw
    return [at // 2 if at % 2 == 0 else pages - 1 - at // 2 for at in range(pages)]


def _chunks(pages: int, step: int, draw: random.Random) -> list[int]:
    """Runs of 16 pages, the runs in random order: as programs and file systems read."""
    del step
    starts = list(range(0, pages, _CHUNK))
    draw.shuffle(starts)
    return [page for at in starts for page in range(at, min(at + _CHUNK, pages))]


PATTERNS: dict[str, Callable[[int, int, random.Random], list[int]]] = {
    "sequential": _sequential,
    "reverse": _reverse,
    "random": _random,
    "stride": _stride,
    "ends": _ends,
    "chunks": _chunks,
}


def order(pattern: str, pages: int, step: int, seed: int) -> list[int]:
    """The numbers of all pages, in the order of that pattern.

    >>> order("stride", 6, 3, 0), order("ends", 5, 0, 0)
    ([0, 3, 1, 4, 2, 5], [0, 4, 1, 3, 2])
    """
    return PATTERNS[pattern](pages, step, random.Random(seed))
