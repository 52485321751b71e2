"""What goes wrong around a pager: its source, its kernel, its time.  All from one seed."""

from __future__ import annotations

import errno
import random
from collections import Counter

import msgspec

from userfault.pager.drivers.model.kernel import Reading
from userfault.uapi.userfaultfd import UFFDIO_COPY, UFFDIO_POISON

FAILURE = "the read failed (injected)"
SHORT = "fewer bytes than asked for (injected)"
MEMORY_REFUSALS = 7  # in a row for one page the core gives it up after eight


class Climate(msgspec.Struct, frozen=True):
    """How often what goes wrong, each a share of the occasions, 0 to 1.

    `again`: fills meet EAGAIN; `partly`: they stop in the middle; `poor`: they meet ENOMEM;
    `away`: the source is not at hand; `failing`, `short`, `late`: reads of it fail, bring too
    little, or come after their deadline; `slow`: they take a while; `early`: a short time has
    passed at once.
    """

    again: float = 0.0
    partly: float = 0.0
    poor: float = 0.0
    away: float = 0.0
    failing: float = 0.0
    short: float = 0.0
    late: float = 0.0
    slow: float = 0.0
    early: float = 0.5


class Storm:
    """A climate at work.  `heal` ends it: from then on nothing goes wrong any more."""

    def __init__(self, climate: Climate, dice: random.Random, deadline_s: float) -> None:
        self.climate = climate
        self._dice = dice
        self._deadline_s = deadline_s
        self.healed = False
        self.met: Counter[str] = Counter()
        self.failures: Counter[int] = Counter()  # by page: reads of it that failed

    def heal(self) -> None:
        """It is over."""
        self.healed = True

    def refusal(self, request: int, address: int, pages: int) -> tuple[int, int]:
        del address
        climate = self.climate
        if self._is(climate.again, "EAGAIN"):
            return errno.EAGAIN, 0
        if pages > 1 and self._is(climate.partly, "stopped in the middle"):
            return errno.EAGAIN, self._dice.randrange(1, pages)
        poor = request != UFFDIO_POISON and self.met["ENOMEM"] < MEMORY_REFUSALS
        if poor and request == UFFDIO_COPY and self._is(climate.poor, "ENOMEM"):
            return errno.ENOMEM, 0
        return 0, 0

    def at_hand(self, page: int, count: int) -> bool:
        del page, count
        return not self._is(self.climate.away, "source not at hand")

    def reading(self, page: int, count: int) -> Reading:
        climate = self.climate
        seconds = self._dice.random() * 0.1 if self._is(climate.slow, "slow read") else 0.0
        if self._is(climate.late, "late read"):
            self._failed(page, count)
            return Reading(self._deadline_s * (1 + self._dice.random()))
        if self._is(climate.failing, "failed read"):
            self._failed(page, count)
            return Reading(seconds, FAILURE)
        if self._is(climate.short, "short read"):
            self._failed(page, count)
            return Reading(seconds, SHORT)
        return Reading(seconds)

    def early(self) -> bool:
        return self._dice.random() < self.climate.early

    def _failed(self, page: int, count: int) -> None:
        self.failures.update(range(page, page + count))

    def _is(self, share: float, name: str) -> bool:
        if self.healed or not share or self._dice.random() >= share:
            return False
        self.met[name] += 1
        return True
