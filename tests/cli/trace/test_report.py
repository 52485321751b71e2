"""The page of a trace: its numbers, and what a real browser shows of it."""

from __future__ import annotations

import json
import re
from html import unescape
from pathlib import Path

import pytest

import userfault
from cli.commands import userfault as run
from helpers.browser import document
from userfault.cli.trace.drawing import bins, how_long
from userfault.cli.trace.figures import figures
from userfault.cli.trace.page import page
from userfault.pager.core import trace
from userfault.pager.core.actions import COPY, UNPROTECT, ZERO
from userfault.pager.core.trace import Header, Trace

PAGE = 4096
PAGES = 64
_HEADER = Header(page_size=PAGE, pages=PAGES, memory="anon", source="file", window_pages=4)

# What a reader sees: measured by the browser, told in an element that the script adds.
_MEASURE = """
<script>
const box = (e) => e.getBoundingClientRect();
const colour = (name) => getComputedStyle(document.querySelector("path." + name)).fill;
const told = {
  pictures: [...document.querySelectorAll("svg")].map(
    (e) => box(e).width > 300 && box(e).height > 90),
  fault: box(document.querySelector("path.fault")).width > 0,
  colours: [colour("c-around-a-fault"), colour("c-working-set"), colour("c-background")],
  bars: document.querySelectorAll("rect.bar").length,
  rows: document.querySelectorAll("#classes tbody tr").length,
  loaded: performance.getEntriesByType("resource").length,
  wide: document.documentElement.scrollWidth > innerWidth,
  ink: getComputedStyle(document.body).color,
};
const out = document.createElement("pre");
out.id = "told";
out.textContent = JSON.stringify(told);
document.body.append(out);
</script>
"""


def _trace(*records: tuple[int, int, int, int, int], header: Header = _HEADER) -> Trace:
    """Records as (microseconds, what, detail, page, extent), through their bytes."""
    data = trace.begin(header)
    for time_us, *rest in records:
        data += trace.packed(time_us * 1000, *rest)
    return trace.decode(data)


_EXAMPLE = (
    (0, trace.AHEAD, trace.SET, 16, 8),
    (10, trace.FAULT, 0, 2, 0),
    (40, trace.FILLED, COPY | trace.DEMAND, 2, 4),
    (50, trace.FILLED, COPY, 16, 8),
    (60, trace.FAULT, 0, 40, 1),
    (90, trace.FAULT, 0, 41, 1),
    (160, trace.FILLED, ZERO | trace.DEMAND, 40, 2),
    (200, trace.FILLED, COPY, 48, 16),
    (300, trace.FAULT, 0, 30, 0),
)


def test_a_fault_waits_until_the_first_fill_with_its_page() -> None:
    found = figures(_trace(*_EXAMPLE))
    assert sorted(round(wait * 1e6) for wait in found.waits) == [30, 70, 100]
    assert found.unanswered == 1


def test_pages_are_counted_by_what_they_were_filled_for() -> None:
    found = figures(_trace(*_EXAMPLE))
    named = {name: count for name, count in found.pages.items() if count}
    assert named == {"a fault": 3, "around a fault": 3, "working set": 8, "background": 16}
    assert found.bytes_by_kind == {"copy": 28 * PAGE, "zero": 2 * PAGE}
    assert found.late == 1  # page 2: the others faulted when the set was in


def test_only_a_touch_trace_tells_what_was_filled_for_nothing() -> None:
    assert {each.touched for each in figures(_trace(*_EXAMPLE)).planners.values()} == {None}
    known = figures(_trace(*_EXAMPLE), {2, 3, 17, 18, 40, 41, 60})
    used = {name: (each.filled, each.touched) for name, each in known.planners.items()}
    assert used == {"around a fault": (3, 1), "working set": (8, 2), "background": (16, 1)}


def test_a_write_to_a_protected_page_is_a_wait_and_fills_nothing() -> None:
    found = figures(
        _trace(
            (0, trace.FILLED, COPY, 3, 1),
            (10, trace.FAULT, 6, 3, 3),
            (25, trace.FILLED, UNPROTECT | trace.DEMAND, 3, 1),
        )
    )
    assert [round(wait * 1e6) for wait in found.waits] == [15]
    assert found.pages["background"] == 1
    assert found.bytes_by_kind == {"copy": PAGE}


@pytest.mark.parametrize("detail", [6, 7, 6 | trace.DEMAND, 15])
def test_a_fill_of_no_known_kind_is_refused(detail: int) -> None:
    with pytest.raises(trace.TraceError, match="unknown kind"):
        _trace((0, trace.FILLED, detail, 0, 1))


def test_waits_are_put_into_bins_of_doubling_width() -> None:
    assert bins([0.0, 1e-6, 1.9e-6, 2e-6, 100e-6]) == {0: 3, 1: 1, 6: 1}
    assert how_long([1e-6, 100e-6]).count('class="bar"') == 7


def test_a_trace_without_records_is_a_page_too() -> None:
    assert "No fault waited" in page("empty", figures(_trace()))


def test_nothing_of_a_trace_becomes_markup() -> None:
    header = Header(page_size=PAGE, pages=1, memory="<script>", source='"><b>')
    made = page("<i>name", figures(_trace(header=header)))
    assert "<script>" not in made
    assert "<b>" not in made
    assert "<i>" not in made


def test_a_browser_shows_the_pictures_and_needs_no_network(tmp_path: Path) -> None:
    file = tmp_path / "page.html"
    made = page("restore.trace", figures(_trace(*_EXAMPLE)))
    file.write_text(made.replace("</body>", _MEASURE + "</body>"), encoding="utf-8")
    dom = document(file, tmp_path / "profile")
    found = re.search(r'<pre id="told">(.*?)</pre>', dom, re.DOTALL)
    assert found is not None
    told = json.loads(unescape(found[1]))
    assert told["pictures"] == [True, True]
    assert told["fault"]
    assert len(set(told["colours"])) == 3
    assert told["bars"] == 3  # 30, 70 and 100 µs are in two, and one between them is empty
    assert told["rows"] == 7
    assert told["loaded"] == 0
    assert not told["wide"]


def test_the_command_shows_what_a_pager_did(tmp_path: Path) -> None:
    image = tmp_path / "image"
    image.write_bytes(bytes(range(1, 65)) * 64 * 16)
    recorded = tmp_path / "restore.trace"
    policy = userfault.Policy(background=False, window_bytes=1, trace=str(recorded))
    with userfault.lazy(str(image), policy=policy) as memory:
        for number in (9, 3, 12):
            memory[number * PAGE]
    done = run("report", str(recorded))
    assert done.returncode == 0, done.stderr
    assert "restore.trace" in (tmp_path / "restore.trace.html").read_text()
    told = json.loads(run("report", "--json", str(recorded)).stdout)
    assert told["schema"] == "userfault.report/1"
    assert (told["faults"], told["unanswered"]) == (3, 0)
    assert told["filled"]["a fault"] == 3


def test_touches_of_other_memory_are_refused(tmp_path: Path) -> None:
    for name, pages in (("one", 4), ("other", 5)):
        header = Header(page_size=PAGE, pages=pages)
        (tmp_path / name).write_bytes(trace.begin(header))
    done = run("report", "--touches", str(tmp_path / "one"), str(tmp_path / "other"))
    assert done.returncode == 2
    assert "is of other memory" in done.stderr
