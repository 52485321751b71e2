"""Pictures of a trace as SVG: where and when pages came, and how long faults waited.

A trace may have millions of records, so pictures are made of cells, and all cells of one colour are
one path.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from html import escape
from itertools import groupby

from userfault.cli.shared.sizes import size
from userfault.cli.trace.figures import CLASSES, Figures, Mark

_LEFT, _WIDTH, _HEIGHT, _BELOW = 78, 1000, 400, 26
_COLUMNS, _ROWS = 250, 100
_BARS_HEIGHT = 180
_TICKS = 5

Cell = tuple[int, int]  # column, row


def where_and_when(figures: Figures) -> str:
    """Address over time: what filled each place, and on top of it the faults."""
    cells = _cells(figures)
    paths = [_path(name, _with(cells, number)) for number, name in enumerate(CLASSES)]
    dots = {_cell(figures, mark, 2) for mark in figures.faults}
    label = "Faults and fills, over time from left to right and over addresses from top to bottom"
    return (
        f'<svg role="img" aria-label="{label}" viewBox="0 0 {_LEFT + _WIDTH} {_HEIGHT + _BELOW}">'
        f"{''.join(paths)}{_dots(dots)}{_axes(figures)}</svg>"
    )


def how_long(waits: Sequence[float]) -> str:
    """How many faults waited for how long: a bar for each doubling of the time."""
    bars = bins(waits)
    most = max(bars.values(), default=1)
    low, high = min(bars, default=0), max(bars, default=0)
    width = _WIDTH / (high - low + 1)
    drawn = []
    for number in range(low, high + 1):
        count = bars.get(number, 0)
        height = count / most * (_BARS_HEIGHT - 22)
        left, top = _LEFT + (number - low) * width, _BARS_HEIGHT - height
        said = f"{count} faults: {span(2.0**number)} to {span(2.0 ** (number + 1))}"
        drawn.append(
            f'<rect class="bar" x="{left + 1:.1f}" y="{top:.1f}" width="{max(width - 2, 1):.1f}"'
            f' height="{height:.1f}"><title>{said}</title></rect>'
            f'<text x="{left + width / 2:.1f}" y="{top - 5:.1f}" text-anchor="middle">'
            f"{count}</text>"
            f'<text x="{left:.1f}" y="{_BARS_HEIGHT + 18}" text-anchor="middle">'
            f"{span(2.0**number)}</text>"
        )
    size = f"0 0 {_LEFT + _WIDTH} {_BARS_HEIGHT + _BELOW}"
    return (
        f'<svg role="img" aria-label="Faults by how long they waited" viewBox="{size}">'
        f"{''.join(drawn)}</svg>"
    )


def bins(waits: Sequence[float]) -> dict[int, int]:
    """Faults by the power of two of their microseconds; shorter than 1 µs is with 1."""
    found: dict[int, int] = {}
    for wait in waits:
        number = max(math.frexp(wait * 1e6)[1] - 1, 0) if wait > 0 else 0
        found[number] = found.get(number, 0) + 1
    return found


def span(microseconds: float) -> str:
    """A time in words."""
    if microseconds < 1000:
        return f"{microseconds:.3g} µs"
    if microseconds < 1_000_000:
        return f"{microseconds / 1e3:.3g} ms"
    return f"{microseconds / 1e6:.3g} s"


def swatch(name: str) -> str:
    """The name of a colour's class in the style sheet."""
    return "c-" + name.replace(" ", "-")


# --- cells ---------------------------------------------------------------------------------------


def _cells(figures: Figures) -> dict[Cell, int]:
    """What most of the pages of each cell were filled for."""
    weights: dict[Cell, list[int]] = {}
    pages = figures.header.pages
    for mark in figures.fills:
        column, first = _cell(figures, mark, 1)
        last = min((mark.page + mark.count - 1) * _ROWS // pages, _ROWS - 1)
        share = max(mark.count // (last - first + 1), 1)
        for row in range(first, last + 1):
            weights.setdefault((column, row), [0] * len(CLASSES))[mark.what] += share
    return {cell: found.index(max(found)) for cell, found in weights.items()}


def _cell(figures: Figures, mark: Mark, finer: int) -> Cell:
    columns, rows = _COLUMNS * finer, _ROWS * finer
    column = int(mark.at / figures.seconds * columns) if figures.seconds else 0
    return min(column, columns - 1), min(mark.page * rows // figures.header.pages, rows - 1)


def _with(cells: dict[Cell, int], number: int) -> Iterator[tuple[int, int, int]]:
    """Cells of one class: column, row and how many lie below each other."""
    chosen = sorted(cell for cell, what in cells.items() if what == number)
    for _, group in groupby(enumerate(chosen), lambda each: (each[1][0], each[1][1] - each[0])):
        run = [cell for _, cell in group]
        yield *run[0], len(run)


def _path(name: str, runs: Iterator[tuple[int, int, int]]) -> str:
    wide, high = _WIDTH / _COLUMNS, _HEIGHT / _ROWS
    drawn = "".join(
        f"M{_LEFT + column * wide:g} {row * high:g}h{wide:g}v{count * high:g}h-{wide:g}z"
        for column, row, count in runs
    )
    if not drawn:
        return ""
    return f'<path class="{swatch(name)}" d="{drawn}"><title>{escape(name)}</title></path>'


def _dots(cells: set[Cell]) -> str:
    wide, high = _WIDTH / (2 * _COLUMNS), _HEIGHT / (2 * _ROWS)
    drawn = "".join(
        f"M{_LEFT + column * wide:g} {row * high:g}h{wide:g}v{high:g}h-{wide:g}z"
        for column, row in sorted(cells)
    )
    return f'<path class="fault" d="{drawn}"><title>faults</title></path>' if drawn else ""


def _axes(figures: Figures) -> str:
    header = figures.header
    drawn = [f'<rect class="frame" x="{_LEFT}" y="0" width="{_WIDTH}" height="{_HEIGHT}"></rect>']
    for tick in range(_TICKS + 1):
        share = tick / _TICKS
        x, y = _LEFT + share * _WIDTH, share * _HEIGHT
        anchor = "end" if tick == _TICKS else "middle" if tick else "start"
        time = span(share * figures.seconds * 1e6) if tick else "0"
        place = size(share * header.pages * header.page_size) if tick else "0"
        lower = min(max(y + 4, 11), _HEIGHT - 1)
        drawn.append(
            f'<text x="{x:g}" y="{_HEIGHT + 18}" text-anchor="{anchor}">{time}</text>'
            f'<text x="{_LEFT - 6}" y="{lower:g}" text-anchor="end">{place}</text>'
        )
    return "".join(drawn)
