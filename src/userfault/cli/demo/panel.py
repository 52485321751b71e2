"""One panel of the demo's picture: a restore, drawn by time and address, as SVG.

Each demand fault is a dot, each fill that nobody waited for a block; what is present is tinted from
then on, and its total is a line.
"""

from __future__ import annotations

import bisect
from collections.abc import Iterator, Sequence
from html import escape

import msgspec

from userfault.cli.demo.client import Restored, Trace
from userfault.cli.demo.report import Run, time_name
from userfault.kernel.memtypes import BASE_PAGE, MIB

INK, FAINT, _GRID = "#1f2933", "#616e7c", "#e4e7eb"
FAULT, FILL, LINE, TINT = "#d6400b", "#3178c6", "#12263a", "#a9cdf2"
SHADES = (0.25, 0.45, 0.7, 0.95)  # of a block, by how much of its band came
TINTS = (0.15, 0.3, 0.45, 0.6)  # of what is present, by how much of its band is
_DOT = 1.3  # dots are put on a grid of this step, so that thousands of them stay a small file


class Box(msgspec.Struct, frozen=True):
    """Where a panel's plot lies."""

    x: float
    y: float
    width: float
    height: float

    @property
    def bottom(self) -> float:
        """Its lower edge."""
        return self.y + self.height

    @property
    def right(self) -> float:
        """Its right edge."""
        return self.x + self.width


def panel(length: int, run: Run | None, box: Box, *, large: bool) -> Iterator[str]:
    """One run: frame, axes, shades, dots, line, and its figures below."""
    found = run.restored if run else None
    if run is None or found is None:
        yield _frame(box)
        yield text(
            box.x + box.width / 2, box.y + box.height / 2, "did not finish", 12, FAINT,
            anchor="middle",
        )  # fmt: skip
        return
    trace = found.trace
    end = max(trace.present[-1][0], 1)
    yield from _tints(trace, found.pages, box, end)
    yield from _time_axis(box, end, 6 if large else 3)
    yield from _address_axis(box, length, numbers=large)
    if large:
        yield from _share_axis(box)
    yield from _shades(trace, found, box, end)
    yield _dots(trace, length // BASE_PAGE, box, end)
    yield _curve(trace, found.pages, box, end)
    yield _frame(box)
    yield from _figures(run, found, box, large=large)


def _figures(run: Run, found: Restored, box: Box, *, large: bool) -> Iterator[str]:
    parts = [f"{found.counters.faults:,} faults"]
    if found.latency:
        parts.append(f"first touch p50 {time_name(found.latency.p50)}")
        parts.append(f"p99 {time_name(found.latency.p99)}")
    parts.append("verified" if run.verified else "NOT VERIFIED")
    if not large and found.latency:
        parts[1] = parts[1].removeprefix("first touch ")
    size, below = (12, 48) if large else (10.5, 31)
    colour = INK if run.verified else FAULT
    yield text(box.x, box.bottom + below, ", ".join(parts), size, colour)


def _frame(box: Box) -> str:
    return (
        f'<rect x="{box.x:.1f}" y="{box.y:.1f}" width="{box.width:.1f}" height="{box.height:.1f}"'
        f' fill="none" stroke="{FAINT}" stroke-width="0.8"/>'
    )


def _time_axis(box: Box, end: int, most: int) -> Iterator[str]:
    unit, factor = ("s", 1e6) if end >= 2e6 else ("ms", 1e3)
    for at in _ticks(end / factor, most):
        x = box.x + at * factor / end * box.width
        yield _grid_line(x, box.y, x, box.bottom)
        label = f"{at:g}" + (f" {unit}" if at == 0 else "")
        yield text(x, box.bottom + 15, label, 11, FAINT, anchor="middle")
    if most > 3:
        yield text(
            box.x + box.width / 2, box.bottom + 30, f"time since the first touch, {unit}", 12,
            FAINT, anchor="middle",
        )  # fmt: skip


def _address_axis(box: Box, length: int, *, numbers: bool) -> Iterator[str]:
    for at in _ticks(length / MIB, 6 if numbers else 3):
        y = box.bottom - at * MIB / length * box.height
        yield _grid_line(box.x, y, box.right, y)
        offset = 16 if numbers else 4
        yield text(box.x - offset, y + 4, f"{at:g}", 11, FAINT, anchor="end")


def _share_axis(box: Box) -> Iterator[str]:
    for share in (0, 50, 100):
        y = box.bottom - share / 100 * box.height
        yield text(box.right + 5, y + 4, f"{share} %", 11, FAINT)


def _grid_line(x1: float, y1: float, x2: float, y2: float) -> str:
    return f'<path d="M{x1:.1f} {y1:.1f}L{x2:.1f} {y2:.1f}" stroke="{_GRID}" stroke-width="0.8"/>'


def _ticks(end: float, most: int) -> list[float]:
    """Round numbers from 0 to `end`, at most `most` steps."""
    step = 1e-6
    while True:
        for factor in (1, 2, 5):
            if end / (step * factor) <= most:
                width = step * factor
                return [number * width for number in range(int(end / width + 1e-9) + 1)]
        step *= 10


def _tints(trace: Trace, pages: int, box: Box, end: int) -> Iterator[str]:
    """What is present, from when on: a tint a band, in four steps."""
    paths: list[list[str]] = [[] for _ in TINTS]
    held, levels, since = ([0] * trace.bands for _ in range(3))
    height = box.height / trace.bands

    def close(band: int, now: int) -> None:
        if levels[band] and now > since[band]:
            x, width = box.x + since[band] / end * box.width, (now - since[band]) / end * box.width
            y = box.bottom - (band + 1) * height
            paths[levels[band] - 1].append(
                f"M{x:.1f} {y:.2f}h{width:.1f}v{height:.2f}h-{width:.1f}z"
            )

    for at, band, count in trace.fills:
        held[band] += count
        size = pages * (band + 1) // trace.bands - pages * band // trace.bands
        level = held[band] * len(TINTS) // size
        if level != levels[band]:
            close(band, at)
            levels[band], since[band] = level, at
    for band in range(trace.bands):
        close(band, end)
    for tint, path in zip(TINTS, paths, strict=True):
        if path:
            yield (
                f'<path d="{"".join(path)}" fill="{TINT}" fill-opacity="{tint}"'
                ' shape-rendering="crispEdges"/>'
            )


def _shades(trace: Trace, found: Restored, box: Box, end: int) -> Iterator[str]:
    """Fills that no touch waited for, by time and address: darker where more of a band came."""
    looks = [at for at, _ in trace.present]
    waited = _faults_by_cell(trace, found, looks)
    paths: list[list[str]] = [[] for _ in SHADES]
    height = box.height / trace.bands
    for at, band, count in trace.fills:
        number = bisect.bisect_left(looks, at)
        alone = count - waited.get((number, band), 0)
        if alone <= 0:
            continue
        share = alone / (found.pages / trace.bands)
        darkness = min(int(share * len(SHADES)), len(SHADES) - 1)
        before = looks[number - 1] if number else at
        x, right = box.x + before / end * box.width, box.x + at / end * box.width
        y = box.bottom - (band + 1) * height
        width = max(right - x, 0.6)
        paths[darkness].append(f"M{x:.1f} {y:.2f}h{width:.1f}v{height:.2f}h-{width:.1f}z")
    for shade, path in zip(SHADES, paths, strict=True):
        if path:
            yield f'<path d="{"".join(path)}" fill="{FILL}" fill-opacity="{shade}"/>'


def _faults_by_cell(
    trace: Trace, found: Restored, looks: Sequence[int]
) -> dict[tuple[int, int], int]:
    """How many faults lie between two looks in a band: those fills were waited for."""
    cells: dict[tuple[int, int], int] = {}
    base = max(found.page_size // BASE_PAGE, 1)
    for at, page in trace.faults:
        cell = bisect.bisect_left(looks, at), page // base * trace.bands // found.pages
        cells[cell] = cells.get(cell, 0) + 1
    return cells


def _dots(trace: Trace, pages: int, box: Box, end: int) -> str:
    """The faults, one dot a cell of a fine grid."""
    cells = {
        (round(at / end * box.width / _DOT), round(page / pages * box.height / _DOT))
        for at, page in trace.faults
    }
    path = "".join(
        f"M{box.x + x * _DOT:.1f} {box.bottom - y * _DOT:.1f}h0" for x, y in sorted(cells)
    )
    return (
        f'<path d="{path}" stroke="{FAULT}" stroke-width="1.7" stroke-linecap="round"'
        ' stroke-opacity="0.8" fill="none"/>'
    )


def _curve(trace: Trace, pages: int, box: Box, end: int) -> str:
    points = [
        (box.x + at / end * box.width, box.bottom - present / pages * box.height)
        for at, present in trace.present
    ]
    path = "L".join(f"{x:.1f} {y:.1f}" for x, y in points)
    halo = f'<path d="M{path}" fill="none" stroke="#ffffff" stroke-width="4" stroke-opacity="0.7"/>'
    return f'{halo}<path d="M{path}" fill="none" stroke="{LINE}" stroke-width="1.8"/>'


def text(
    x: float,
    y: float,
    said: str,
    size: float,
    colour: str,
    *,
    anchor: str = "start",
    weight: int = 400,
    turned: bool = False,
) -> str:
    """A line of text; `turned`: it reads upwards."""
    turn = f' transform="rotate(-90 {x:.1f} {y:.1f})"' if turned else ""
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}" fill="{colour}" text-anchor="{anchor}"'
        f' font-weight="{weight}"{turn}>{escape(said)}</text>'
    )
