"""Changes of plain values (what JSON and msgpack hold) that keep most of their structure."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable
from typing import Any

# Where numbers go wrong: around pages, widths and signs.
NUMBERS = (0, 1, 7, 4095, 4096, 4097, 1 << 21, (1 << 31) - 1, 1 << 31, (1 << 32) - 1, 1 << 32,
           1 << 40, (1 << 47) - 4096, 1 << 47, (1 << 63) - 4096, (1 << 63) - 1, 1 << 63,
           (1 << 64) - 4096, (1 << 64) - 1, -1, -4096, -(1 << 63))  # fmt: skip
_OTHERS: tuple[Any, ...] = (None, True, False, 1.5, 1e308, "", "x" * 300, "\0", "..", [], {}, [[]])


def number(draw: random.Random, near: int) -> int:
    """Another one, perhaps close to the one that was there."""
    if draw.random() < 0.5:
        return draw.choice(NUMBERS)
    return near + draw.choice((-4096, -1, 1, 4096, near))


def changed(draw: random.Random, value: Any, times: int) -> Any:
    """A copy with so many changes, each at some place in it."""
    value = copy.deepcopy(value)
    for _ in range(times):
        holders = [value, *_inside(value)] if isinstance(value, dict | list) else []
        if not holders:
            return _another(draw, value)
        holder = draw.choice(holders)
        if isinstance(holder, dict):
            _change_table(draw, holder)
        else:
            _change_list(draw, holder)
    return value


def _inside(value: Any) -> list[Any]:
    """Tables and lists in it, however deep."""
    parts = value.values() if isinstance(value, dict) else value
    found = [part for part in parts if isinstance(part, dict | list)]
    return found + [deeper for part in found for deeper in _inside(part)]


def _change_table(draw: random.Random, table: dict[str, Any]) -> None:
    ways: list[Callable[[str], object]] = [
        table.pop,
        lambda key: table.update({key: _another(draw, table[key])}),
        lambda key: table.update({key: _another(draw, table[key])}),
        lambda key: table.update({key + "x": table[key]}),
        lambda key: table.update({key: table[draw.choice(sorted(table))]}),
    ]
    if table:
        draw.choice(ways)(draw.choice(sorted(table)))
    else:
        table["x"] = draw.choice(NUMBERS)


def _change_list(draw: random.Random, items: list[Any]) -> None:
    at = draw.randrange(len(items) + 1)
    ways: list[Callable[[], None]] = [
        lambda: items.insert(at, copy.deepcopy(draw.choice(items)) if items else 0),
        lambda: items.__setitem__(slice(at, at + 1), []),
        lambda: draw.shuffle(items),
        lambda: (
            items.extend(copy.deepcopy(items) * draw.randrange(3)) if len(items) < 600 else None
        ),
        lambda: items.__setitem__(
            slice(at, at + 1), [_another(draw, items[at] if at < len(items) else 0)]
        ),
    ]
    draw.choice(ways)()


def _another(draw: random.Random, value: Any) -> Any:
    if draw.random() < 0.7 and isinstance(value, int):
        return number(draw, int(value))
    if draw.random() < 0.3 and isinstance(value, str | bytes):
        return value * draw.randrange(4)
    return copy.deepcopy(draw.choice((*NUMBERS, *_OTHERS)))


def bits(draw: random.Random, data: bytes) -> bytes:
    """Bytes with a few of them changed, taken out or put in, or cut."""
    found = bytearray(data)
    for _ in range(draw.randint(0, 4)):
        at = draw.randrange(len(found) + 1)
        found[at : at + draw.randint(0, 4)] = draw.randbytes(draw.randint(0, 4))
    return bytes(found[: draw.choice([len(found), draw.randrange(len(found) + 1)])])


def pieces(draw: random.Random, data: bytes) -> list[bytes]:
    """The same bytes, cut at some places; no piece is empty."""
    at = sorted({draw.randrange(1, len(data)) for _ in range(draw.choice((0, 0, 1, 3)))} if
                len(data) > 1 else ())  # fmt: skip
    return [data[low:high] for low, high in zip([0, *at], [*at, len(data)], strict=True)]
