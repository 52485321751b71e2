"""The page of a failure, looked at in a real browser."""

from __future__ import annotations

import json
import re
from html import unescape
from pathlib import Path

from check.explore.test_failures import NEXT, broken
from helpers.browser import document
from userfault.check.explore.building.scenario import Scenarios
from userfault.check.explore.building.world import World
from userfault.check.explore.runner import Runner
from userfault.check.explore.search import search
from userfault.check.explore.shorten import shortest
from userfault.check.explore.strategies.reduced import Reduced
from userfault.check.explore.strategies.replay import line_of
from userfault.check.explore.telling.page import page
from userfault.check.explore.telling.timeline import Timeline, tell

# What a reader sees: measured by the browser, told in an element that the script adds.
_MEASURE = """
<script>
const shown = (e) => e.getBoundingClientRect().width > 0 && e.getBoundingClientRect().height > 0;
const rows = [...document.querySelectorAll("tbody tr")];
const cell = document.querySelector("td.runs");
const told = {
  columns: [...document.querySelectorAll("thead th")].map((e) => e.textContent),
  rows: rows.filter(shown).length,
  points: rows.map((row) => row.querySelector("td.runs").textContent),
  places: rows.map((row) => row.querySelector("td.runs").cellIndex),
  changes: rows.map((row) => row.querySelectorAll("li").length),
  violation: document.querySelector(".violation").textContent,
  red: getComputedStyle(document.querySelector(".violation b")).color,
  coloured: getComputedStyle(cell).borderLeftStyle,
  loaded: performance.getEntriesByType("resource").length,
  wide: document.documentElement.scrollWidth > innerWidth,
};
const out = document.createElement("pre");
out.id = "told";
out.textContent = JSON.stringify(told);
document.body.append(out);
</script>
"""


def _timeline() -> Timeline:
    scenario = broken.by_name["a-page-that-is-dropped"]
    runner = Runner(scenario, NEXT)
    found = search(runner, Reduced())
    assert found.run is not None
    line = line_of(scenario, NEXT.name, runner.bugs, shortest(runner, found.run))
    return tell(scenario, NEXT, line)


def test_a_browser_shows_tasks_as_columns_and_steps_as_rows(tmp_path: Path) -> None:
    timeline = _timeline()
    file = tmp_path / "page.html"
    file.write_text(page(timeline).replace("</body>", _MEASURE + "</body>"), encoding="utf-8")
    shown = re.search(r'<pre id="told">(.*?)</pre>', document(file, tmp_path / "profile"), re.S)
    assert shown is not None
    told = json.loads(unescape(shown[1]))
    assert told["columns"] == ["step", "reader", "handler", "dropper", "what changed"]
    assert told["rows"] == len(timeline.rows)
    assert told["points"] == [row.point for row in timeline.rows]
    assert told["places"] == [row.task + 1 for row in timeline.rows]
    assert told["changes"] == [len(row.changes) for row in timeline.rows]
    assert "the page is gone" in told["violation"]
    assert told["red"] == "rgb(198, 40, 40)"
    assert told["coloured"] in ("solid", "double")
    assert told["loaded"] == 0
    assert not told["wide"]


def test_the_page_needs_nothing_else_and_names_are_escaped() -> None:
    hostile = Scenarios()

    @hostile(name="hostile")
    def build(world: World) -> None:
        """<script>alert(1)</script>"""
        world.task("<b>one", lambda _: "<img src=x>")
        world.check(lambda: "<script>alert(2)</script>")

    runner = Runner(hostile.by_name["hostile"], NEXT)
    found = search(runner, Reduced())
    assert found.run is not None
    line = line_of(hostile.by_name["hostile"], NEXT.name, runner.bugs, found.run)
    text = page(tell(hostile.by_name["hostile"], NEXT, line))
    assert "<script" not in text
    assert "<b>one" not in text
    assert not re.search(r"(src|href)\s*=|url\(|@import|https?:", text)
