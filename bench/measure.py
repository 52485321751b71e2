"""Rounds in which the sides take turns, and what is made of them."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Mapping

import msgspec


class Target(msgspec.Struct, frozen=True):
    """What a figure is meant to be: `<=` or `>=` a number."""

    sense: str
    figure: float

    def met(self, figure: float) -> bool:
        """Whether it is."""
        return figure <= self.figure if self.sense == "<=" else figure >= self.figure

    def __str__(self) -> str:
        return f"{self.sense} {self.figure:g}"


class Row(msgspec.Struct, frozen=True):
    """One line of a report.  `ours`, `rival`: medians over the rounds, in `unit`.

    `rival_name`: who the rival is.  `ratio`: the median of the ratios of each round (0: no rival).
    `spread`: the lowest and the highest of them.  `target`: for `ratio`, or for `ours` where there
    is no rival.  `cpu_us`: CPU time that ours and the rival used for each fault, in µs (zeros: not
    asked).
    """

    benchmark: str
    case: str
    unit: str
    ours: float
    rival: float = 0.0
    ratio: float = 0.0
    spread: tuple[float, float] = (0.0, 0.0)
    ratio_of: str = ""
    target: Target | None = None
    rounds: int = 0
    note: str = ""
    cpu_us: tuple[float, float] = (0.0, 0.0)
    rival_name: str = "C"

    @property
    def met(self) -> bool | None:
        """Whether the target is met; None without one."""
        if self.target is None:
            return None
        return self.target.met(self.ratio or self.ours)


class Check(msgspec.Struct, frozen=True):
    """The hash of the bytes that each side read: equal, or the run has failed."""

    case: str
    hashes: dict[str, str]


class DifferError(Exception):
    """The sides did not read the same bytes."""


class Checks:
    """Collects what the sides read."""

    def __init__(self) -> None:
        self.held: list[Check] = []

    def same(self, case: str, hashes: Mapping[str, int]) -> None:
        """Note the hashes; raises DifferError unless they are all equal."""
        self.held.append(Check(case, {side: f"{value:016x}" for side, value in hashes.items()}))
        if len(set(hashes.values())) != 1:
            raise DifferError(f"{case}: {self.held[-1].hashes}")


def alternate(
    rounds: int, sides: Iterable[str], turn: Callable[[str, int], float]
) -> dict[str, list[float]]:
    """Have each side its turn once a round, whoever was first being last next time.

    `turn(side, round)` gives its figure; round 0 warms up and is not counted.
    """
    names = list(sides)
    figures: dict[str, list[float]] = {name: [] for name in names}
    for number in range(rounds + 1):
        for name in names if number % 2 else reversed(names):
            figure = turn(name, number)
            if number:
                figures[name].append(figure)
    return figures


def compare(row: Row, ours: list[float], rival: list[float], *, inverse: bool = False) -> Row:
    """`row` with its figures.  The ratio is ours by theirs, or theirs by ours if `inverse`."""
    pairs = zip(ours, rival, strict=True)
    ratios = [theirs / our if inverse else our / theirs for our, theirs in pairs]
    return msgspec.structs.replace(
        row,
        ours=statistics.median(ours),
        rival=statistics.median(rival),
        ratio=statistics.median(ratios),
        spread=(min(ratios), max(ratios)),
        rounds=len(ratios),
    )


def percentile(figures: list[float], share: float) -> float:
    """The figure below which `share` of all lie (nearest rank)."""
    ordered = sorted(figures)
    return ordered[min(int(share * len(ordered)), len(ordered) - 1)]
