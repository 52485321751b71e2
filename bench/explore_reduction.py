"""How many schedules the reduced search leaves out: the table of docs/explorer.md.

Plain depth-first search is counted, not estimated: up to so many schedules for each one that the
reduced search made.  What has more than that is a lower bound ("more than").

    python bench/explore_reduction.py [KERNEL] [EVERY]

EVERY: only each so many-th scenario is measured.
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Iterator, Sequence
from itertools import groupby

import msgspec

from userfault.check.explore.building.scenario import Scenario
from userfault.check.explore.invariants import INVARIANTS
from userfault.check.explore.runner import Runner
from userfault.check.explore.scenarios import SCENARIOS
from userfault.check.explore.search import count_plain, search
from userfault.check.explore.strategies.reduced import Reduced
from userfault.model.profiles import profile_named

_TIMES = 25  # plain schedules that are counted for each of the reduced search
_MOST = 3_000  # schedules of the reduced search


class Measured(msgspec.Struct, frozen=True):
    """One scenario."""

    group: str
    tasks: int
    made: int
    depth: int
    exhausted: bool
    seconds: float
    reduction: float
    whole: bool  # plain search came to its end


def measured(scenario: Scenario, kernel: str) -> Measured:
    """Both searches."""
    profile = profile_named(kernel)
    runner = Runner(scenario, profile, invariants=INVARIANTS)
    tasks = len(runner.build().callers)
    found = search(runner, Reduced(), schedules=_MOST)
    assert found.violation is None, f"{scenario.name}: {found.violation}"
    made = found.schedules + found.cut
    plain = count_plain(runner, _TIMES * made if found.exhausted else 0)
    return Measured(
        scenario.group, tasks, made, found.depth, found.exhausted, found.seconds,
        plain.schedules / made, plain.complete,
    )  # fmt: skip


def rows(all_of_them: Sequence[Measured]) -> Iterator[str]:
    """The table, a row a group and one for all: scenarios of three tasks that were exhausted."""
    yield "| group | scenarios | schedules: median, most | steps | s, most | reduction |"
    yield "| --- | --- | --- | --- | --- | --- |"
    three = [one for one in all_of_them if one.tasks == 3 and one.exhausted]
    for group, found in groupby(sorted(three, key=lambda one: one.group), lambda one: one.group):
        yield row(f"`{group}`", list(found))
    yield row("all", three)


def row(name: str, found: Sequence[Measured]) -> str:
    made = [one.made for one in found]
    times = sorted(found, key=lambda one: one.reduction)
    middle = times[len(times) // 2]
    return (
        f"| {name} | {len(found)} | {statistics.median(made):.0f}, {max(made)}"
        f" | {max(one.depth for one in found)} | {max(one.seconds for one in found):.1f}"
        f" | {'' if middle.whole else 'more than '}{middle.reduction:.0f} |"
    )


def main() -> None:
    kernel = sys.argv[1] if len(sys.argv) > 1 else "next"
    every = int(sys.argv[2]) if len(sys.argv) > 2 else 1
    found = []
    for scenario in SCENARIOS[::every]:
        one = measured(scenario, kernel)
        found.append(one)
        print(f"{scenario.name}: {one}", file=sys.stderr, flush=True)
    print("\n".join(rows(found)))


if __name__ == "__main__":
    main()
