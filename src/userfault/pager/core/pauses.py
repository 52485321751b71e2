"""Pages that are tried again when a time has come: a failed read, memory that was not to be had."""

from __future__ import annotations

from userfault.pager.core.ledger import Ledger

FIRST_PAUSE_S = 0.005


class Pauses:
    """The pauses of one mapping's pages, which are FILLING until then."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._held: list[tuple[float, int, bool]] = []

    def add(self, until: float, page: int, *, demand: bool = True) -> None:
        """Try `page` again at the time `until`.  `demand`: a thread waits for it."""
        self._held.append((until, page, demand))
        self._ledger.put_off(page, 1)
        self._ledger.timed = True

    def due(self, now: float) -> list[tuple[int, bool]]:
        """The pages whose time has come, which pause no more, and whether a thread waits."""
        due = [(page, demand) for when, page, demand in self._held if when <= now]
        self._held = [each for each in self._held if each[0] > now]
        return due

    def hasten(self, page: int) -> bool:
        """A thread waits for `page` now; False where it does not pause."""
        for at, (when, paused, _) in enumerate(self._held):
            if paused == page:
                self._held[at] = when, page, True
                return True
        return False

    def next_time(self) -> float | None:
        """When the first pause is over; None where there is none."""
        return min(when for when, _, _ in self._held) if self._held else None

    def end_of(self, page: int) -> float | None:
        """When the pause of `page` is over; None where it does not pause."""
        return next((when for when, paused, _ in self._held if paused == page), None)

    def pages(self) -> list[int]:
        """The pages that pause."""
        return [page for _, page, _ in self._held]

    def end(self, page: int) -> None:
        """What became of `page` is known: it pauses no more."""
        self._held = [each for each in self._held if each[1] != page]

    def clear(self) -> None:
        """None pauses any more."""
        self._held.clear()
