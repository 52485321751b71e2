"""A schedule as one line to paste, and the strategy that runs it again.

The line names what it belongs to: its own format, this package's version, the scenario, the
kernel, the design, the old bugs that were put back; then who ran, step by step, and a sum over the
points that the tasks stood at.  What does not fit is refused rather than run as something else.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence

import msgspec

from userfault.check.explore.building.scenario import Scenario
from userfault.check.explore.steps import Run, Step
from userfault.check.explore.strategies.strategy import CUT, Here, Once
from userfault.kernel.errors import UsageError
from userfault.model.profiles import Config
from userfault.version import __version__

_FORMAT = "explore2"
_FIELDS = 8


class Line(msgspec.Struct, frozen=True):
    """What a replay line says."""

    scenario: str
    kernel: str
    bugs: tuple[str, ...]
    schedule: tuple[int, ...]
    points: str  # the sum over the points of the steps
    design: str = Config().design
    version: str = __version__

    def __str__(self) -> str:
        bugs = "+".join(self.bugs) or "-"
        steps = _packed(self.schedule)
        parts = (self.scenario, self.kernel, self.design, bugs, steps, self.points)
        return ":".join((_FORMAT, self.version, *parts))


def line_of(scenario: Scenario, kernel: str, bugs: frozenset[str], run: Run) -> Line:
    """The line that runs this schedule again."""
    put_back, schedule = tuple(sorted(bugs)), tuple(run.schedule)
    points = points_of(run.steps)
    return Line(scenario.name, kernel, put_back, schedule, points, scenario.config.design)


def parse(text: str) -> Line:
    """Read a line.  Raises UsageError: of another format or version, or damaged."""
    parts = text.strip().split(":")
    if parts[0] != _FORMAT or len(parts) != _FIELDS:
        raise UsageError(
            "this is no replay line of this version",
            cause=f"it does not begin with {_FORMAT!r} and have {_FIELDS} parts",
            cure="paste the line as `userfault explore` printed it",
        )
    _, version, scenario, kernel, design, bugs, schedule, points = parts
    if version != __version__:
        raise UsageError(
            f"this replay line is of version {version}",
            cause=f"this is {__version__}, in which the same steps may mean something else",
            cure="explore the scenario again, or use the version that printed the line",
        )
    named = () if bugs == "-" else tuple(bugs.split("+"))
    return Line(scenario, kernel, named, _unpacked(schedule), points, design, version)


def points_of(steps: Sequence[Step]) -> str:
    """A sum over where the tasks stood: another model has other points."""
    text = ",".join(f"{step.task}@{step.point}" for step in steps)
    return f"{zlib.crc32(text.encode()):08x}"


def _packed(schedule: Sequence[int]) -> str:
    """`0x3.2` for 0, 0, 0, 2."""
    parts: list[list[int]] = []
    for task in schedule:
        if parts and parts[-1][0] == task:
            parts[-1][1] += 1
        else:
            parts.append([task, 1])
    return ".".join(str(task) if times == 1 else f"{task}x{times}" for task, times in parts)


def _unpacked(text: str) -> tuple[int, ...]:
    found: list[int] = []
    for part in text.split(".") if text else ():
        task, _, times = part.partition("x")
        if not task.isdigit() or (times and not times.isdigit()) or len(times) > 4:
            raise UsageError(
                "this replay line is damaged", cause=f"{part[:40]!r} is not a task and its steps"
            )
        found += [int(task)] * int(times or 1)
    return tuple(found)


class Replay(Once):
    """One given schedule; it goes on as it would without preemption where the line ends."""

    def __init__(self, schedule: Sequence[int]) -> None:
        self._schedule = schedule
        self.departed: int | None = None  # the first step that could not be made

    def choose(self, here: Here) -> int:
        depth = len(here.steps)
        if depth >= len(self._schedule):
            return here.current if here.current in here.enabled else here.enabled[0]
        task = self._schedule[depth]
        if task not in here.enabled:
            self.departed = depth
            return CUT
        return task

    def end(self, run: Run) -> None:
        del run


def check_same(line: Line, strategy: Replay, run: Run) -> None:
    """Raises UsageError where the run is not the one that the line was made of."""
    steps = run.steps[: len(line.schedule)]
    if strategy.departed is None and points_of(steps) == line.points:
        return
    where = ""
    if strategy.departed is not None:
        task = line.schedule[strategy.departed]
        where = f" (at step {strategy.departed} task {task} cannot run)"
    raise UsageError(
        "this replay line is of another state of the model or of the scenario",
        cause=f"its steps do not fit what happens now{where}",
        cure="explore the scenario again",
    )
