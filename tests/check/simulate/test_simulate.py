"""The pager under simulation: nothing is violated, one seed is one run, and mistakes are found."""

from __future__ import annotations

import os
from collections import Counter

import pytest

from check.simulate.mistakes import MISTAKES, Mistake
from pager_core.planted import BUGS
from pager_core.planted_takeovers import TAKEOVERS
from userfault.check.simulate.case import drawn
from userfault.check.simulate.run import run
from userfault.pager.core.actions import Evict, Together
from userfault.pager.core.residency import Books, Residency
from userfault.pager.core.series import Series

SEEDS = int(os.environ.get("USERFAULT_SEEDS", "1000"))
PARTS = 4

# Mistakes of the core that programs on the simulated kernel find (see `pager_core`), and within how
# many seeds they must be found here.
_OF_THE_CORE = {
    "a page marked as filled is filled again": 200,
    "EEXIST wakes nobody": 100,
    "waiters of a sharing child sleep on": 600,
    "unmap wakes nobody": 200,
    "unmap drops what others map": 500,
    "one retry too few": 200,
    "poisoned shared pages are unregistered": 400,
    "memory that grew is not served": 100,
}


def _found(seeds: int) -> bool:
    return any(run(seed).violation is not None for seed in range(seeds))


@pytest.mark.parametrize("part", range(PARTS))
def test_nothing_is_violated(part: int) -> None:
    for seed in range(part, SEEDS, PARTS):
        result = run(seed)
        if result.violation is not None:
            told = "\n".join(result.log[-20:])
            again = f"userfault simulate --seed {seed} --trace"
            pytest.fail(f"seed {seed}: {result.violation}\n{told}\n{again}", pytrace=False)


@pytest.mark.parametrize(
    ("seed", "once"),
    [
        (4879, "who kept a thread from running that had raised an event kept everybody"),
        (10652, "a request was carried out for a client that had ended"),
        (30858, "children were looked at when it was time, and by rounding it was not"),
        (222, "a page that was taken out and could not be had again read zeros"),
        (9022696, "who ended had the others' background work under way, and took it along"),
        (46296, "a hole in a page that the pager had never seen overlapped with a write to it"),
    ],
)
def test_seeds_that_once_broke_a_rule(seed: int, once: str) -> None:
    assert run(seed).violation is None, once


def test_one_seed_is_one_run() -> None:
    for seed in range(20):
        one, other = run(seed, trace=True), run(seed, trace=True)
        assert (one.points, one.log, one.met) == (other.points, other.log, other.met)


@pytest.mark.parametrize("memory", ["anon", "shmem"])
def test_each_kind_of_thing_that_goes_wrong_is_met(memory: str) -> None:
    met: set[str] = set()
    deaths = 0
    for seed in range(200):
        result = run(seed, memory=memory)
        met |= result.met.keys()
        deaths += result.deaths
    assert met >= {"EAGAIN", "ENOMEM", "stopped in the middle", "source not at hand"}
    assert met >= {"failed read", "short read", "late read", "slow read"}
    assert deaths


def test_pages_go_and_working_sets_come_and_workers_are_killed_meanwhile(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen: Counter[str] = Counter()
    out, came = Residency.evicted, Series.done

    def evicted(self: Residency, books: Books, action: Evict) -> None:
        seen["pages go"] += 1
        out(self, books, action)

    def done(self: Series, action: Together, count: int) -> None:
        seen["sets come"] += count
        came(self, action, count)

    monkeypatch.setattr(Residency, "evicted", evicted)
    monkeypatch.setattr(Series, "done", done)
    for seed in [*range(5, 200, 8), *range(6, 200, 8)]:
        case = drawn(seed)
        before = Counter(seen)
        deaths = run(seed).deaths
        seen["deaths of a budget"] += deaths if case.terms.evicts else 0
        seen["deaths of a set"] += deaths if case.terms.course else 0
        seen["written pages of a budget may be spilled"] += case.terms.spills
        assert not (seen["pages go"] > before["pages go"]) or case.terms.evicts
    assert min(seen.values()) > 3
    assert len(seen) == 5


@pytest.mark.parametrize(
    "mistake", [each for each in MISTAKES if each.seeds], ids=lambda mistake: mistake.name
)
def test_a_mistake_of_the_driver_is_found(
    mistake: Mistake, monkeypatch: pytest.MonkeyPatch
) -> None:
    mistake.plant(monkeypatch)
    assert _found(mistake.seeds)


@pytest.mark.parametrize("name", _OF_THE_CORE)
def test_a_mistake_of_the_core_is_found(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    bug = next(bug for bug in [*BUGS, *TAKEOVERS] if bug.name == name)
    bug.plant(monkeypatch)
    assert _found(_OF_THE_CORE[name])
