"""The picture of a demo, as SVG: which page came when, and why.

Time runs to the right, the image's addresses upwards.  Each demand fault is a dot, each fill that
nobody waited for a block; what is present is tinted from then on, and its total is a line.  The
first memory is drawn large, the others small, each filled on demand alone and with background fill.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from userfault.cli.demo.capture import Mapping
from userfault.cli.demo.panel import (
    FAINT,
    FAULT,
    FILL,
    INK,
    LINE,
    SHADES,
    TINT,
    TINTS,
    Box,
    panel,
    text,
)
from userfault.cli.demo.report import Demo, Run
from userfault.kernel.memtypes import MIB, Memory, size_name

_KINDS = (("heap", "#8d6cab"), ("anonymous", "#c3a6d8"), ("files", "#7ba05b"), ("stack", "#c44536"))

_WIDTH = 1180
_LEFT, _RIGHT, _TOP = 84, 56, 128
_LARGE_HEIGHT, _SMALL_HEIGHT = 330, 132
_LARGE_GAP, _SMALL_GAP, _COLUMNS = 70, 34, 4
_FEWEST_PAGES = 8  # a memory of fewer pages has no pattern to show

_TITLES = {False: "filled on demand, the rest at the end", True: "with background fill"}
_SHORT = {False: "on demand", True: "with background fill"}


def draw(demo: Demo, mappings: Sequence[Mapping]) -> str:
    """The whole picture."""
    memories = [
        memory
        for memory in dict.fromkeys(run.memory for run in demo.runs)
        if any(run.memory == memory and _has_pattern(run) for run in demo.runs)
    ]
    body = [*_heading(demo), *_legend()]
    bottom = float(_TOP)
    if memories:
        body += _large(demo, memories[0], mappings)
        bottom = _TOP + _LARGE_HEIGHT + 62
    else:
        body.append(text(_LEFT, _TOP + 20, "no memory was restored", 14, FAINT))
        bottom += 60
    for first in range(1, len(memories), _COLUMNS):
        body += _small_row(demo, memories[first : first + _COLUMNS], bottom + 28)
        bottom += 28 + 2 * (_SMALL_HEIGHT + 62)
    return _document(round(bottom + 12), body)


def _has_pattern(run: Run) -> bool:
    return run.restored is not None and run.restored.pages >= _FEWEST_PAGES


def _document(height: int, body: Iterable[str]) -> str:
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}"'
            f' width="{_WIDTH}" height="{height}"'
            " font-family=\"system-ui, 'Segoe UI', 'DejaVu Sans', Arial, sans-serif\">",
            f'<rect width="{_WIDTH}" height="{height}" fill="#ffffff"/>',
            *body,
            "</svg>\n",
        ]
    )


def _heading(demo: Demo) -> Iterator[str]:
    target = demo.target
    verdict = "every byte verified" if demo.verified else "NOT VERIFIED"
    yield f"<title>Lazy restore of a live process: {verdict}</title>"
    yield text(_LEFT, 42, "Lazy restore of a live process", 24, INK, weight=600)
    told = (
        f"{target.length / MIB:.0f} MiB in {target.mappings} mappings, {target.pages:,} pages;"
        f" {demo.order.pages:,} of them touched in the order of its pointers;"
        f" Linux {demo.kernel}; {verdict}"
    )
    yield text(_LEFT, 66, told, 13, FAINT)


def _legend() -> Iterator[str]:
    x, y = float(_LEFT), 92.0
    yield f'<circle cx="{x + 5}" cy="{y - 4}" r="3" fill="{FAULT}"/>'
    yield text(x + 14, y, "touch that faulted", 12, INK)
    x += 150
    for number, shade in enumerate(SHADES):
        yield (
            f'<rect x="{x + 8 * number}" y="{y - 10}" width="8" height="11" fill="{FILL}"'
            f' fill-opacity="{shade}"/>'
        )
    yield text(x + 40, y, "filled while nobody waited for it", 12, INK)
    x += 244
    yield (
        f'<rect x="{x}" y="{y - 10}" width="16" height="11" fill="{TINT}"'
        f' fill-opacity="{TINTS[-1]}"/>'
    )
    yield text(x + 22, y, "present", 12, INK)
    x += 88
    yield f'<path d="M{x} {y - 4}h22" stroke="{LINE}" stroke-width="1.8" fill="none"/>'
    yield text(x + 28, y, "share of pages present", 12, INK)
    x += 190
    yield text(x, y, "address strip:", 12, FAINT)
    x += 88
    for kind, colour in _KINDS:
        yield f'<rect x="{x}" y="{y - 10}" width="9" height="11" fill="{colour}"/>'
        yield text(x + 14, y, kind, 12, INK)
        x += 32 + 6.6 * len(kind)


def _large(demo: Demo, memory: Memory, mappings: Sequence[Mapping]) -> Iterator[str]:
    width = (_WIDTH - _LEFT - _RIGHT - _LARGE_GAP) / 2
    for number, background in enumerate((False, True)):
        box = Box(_LEFT + number * (width + _LARGE_GAP), _TOP + 12, width, _LARGE_HEIGHT)
        run = _run_of(demo, memory, background)
        yield text(
            box.x, box.y - 12, f"{_name(memory)}: {_TITLES[background]}", 14, INK, weight=600
        )
        yield from panel(demo.target.length, run, box, large=True)
        yield from _strip(demo, mappings, box)
    middle = _TOP + 12 + _LARGE_HEIGHT / 2
    yield text(24, middle, "address in the image, MiB", 12, FAINT, anchor="middle", turned=True)


def _small_row(demo: Demo, memories: Sequence[Memory], top: float) -> Iterator[str]:
    width = (_WIDTH - _LEFT - _RIGHT - (_COLUMNS - 1) * _SMALL_GAP) / _COLUMNS
    for column, memory in enumerate(memories):
        x = _LEFT + column * (width + _SMALL_GAP)
        yield text(x, top, _name(memory), 14, INK, weight=600)
        for row, background in enumerate((False, True)):
            box = Box(x, top + 30 + row * (_SMALL_HEIGHT + 62), width, _SMALL_HEIGHT)
            yield text(box.x, box.y - 7, _SHORT[background], 11.5, FAINT)
            if column == 0:
                yield text(24, box.y + box.height / 2, "address, MiB", 12, FAINT,
                            anchor="middle", turned=True)  # fmt: skip
            yield from panel(
                demo.target.length, _run_of(demo, memory, background), box, large=False
            )


def _name(memory: Memory) -> str:
    return f"{memory.name}, {size_name(memory.page_size)} pages"


def _run_of(demo: Demo, memory: Memory, background: bool) -> Run | None:
    return next(
        (run for run in demo.runs if run.memory == memory and run.background is background), None
    )


def _strip(demo: Demo, mappings: Sequence[Mapping], box: Box) -> Iterator[str]:
    """What lies at which address, as a strip of colours beside the panel."""
    colours = dict(_KINDS)
    for mapping in mappings:
        height = mapping.length / demo.target.length * box.height
        y = box.bottom - mapping.offset / demo.target.length * box.height - height
        yield (
            f'<rect x="{box.x - 11:.1f}" y="{y:.2f}" width="7" height="{max(height, 0.4):.2f}"'
            f' fill="{colours[_kind(mapping)]}"/>'
        )


def _kind(mapping: Mapping) -> str:
    if mapping.name.startswith("["):
        return {"[heap]": "heap", "[stack]": "stack"}.get(mapping.name, "anonymous")
    return "files" if mapping.name else "anonymous"
