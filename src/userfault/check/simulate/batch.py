"""Many seeds in one process, and what became of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import msgspec

from userfault.check.simulate.run import Result, run
from userfault.model.profiles import NEXT

BATCH = 250


class Batch(msgspec.Struct, frozen=True):
    """Which seeds: `count` of them from `first` on."""

    first: int
    count: int
    memory: str = ""
    kernel: str = NEXT.name


class Progress(msgspec.Struct):
    """What has been seen so far.  `met`: what went wrong around the pager, and how often."""

    seeds: int = 0
    steps: int = 0
    deaths: int = 0
    met: dict[str, int] = {}
    broken: list[Result] = []

    def add(self, other: Progress) -> None:
        """What another one has seen too."""
        self.seeds += other.seeds
        self.steps += other.steps
        self.deaths += other.deaths
        self.met = dict(Counter(self.met) + Counter(other.met))
        self.broken = [*self.broken, *other.broken]


def play(batch: Batch, told: Callable[[Progress], None]) -> None:
    """Run its seeds; `told` hears of each what it came to."""
    for seed in range(batch.first, batch.first + batch.count):
        result = run(seed, memory=batch.memory, kernel=batch.kernel)
        broken = [result] if result.violation is not None else []
        told(Progress(1, result.steps, result.deaths, result.met, broken))


def batches(wanted: Batch) -> list[Batch]:
    """The same seeds, cut for processes of their own."""
    ends = wanted.first + wanted.count
    return [
        msgspec.structs.replace(wanted, first=first, count=min(BATCH, ends - first))
        for first in range(wanted.first, ends, BATCH)
    ]
