"""Pages that are tried again when a time has come: a failed read, memory that was not to be had."""

from __future__ import annotations

from userfault.pager.core.ledger import Ledger

FIRST_PAUSE_S = 0.005


class Pauses:
    """The pauses of one mapping's pages, which are FILLING until then."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._held: list[tuple[float, int]] = []

    def add(self, until: float, page: int) -> None:
        """Try `page` again at the time `until`."""
        self._held.append((until, page))
        self._ledger.put_off(page, 1)
        self._ledger.timed = True

    def due(self, now: float) -> list[int]:
        """The pages whose time has come, which pause no more."""
        due = [page for when, page in self._held if when <= now]
        self._held = [(when, page) for when, page in self._held if when > now]
        return due

    def next_time(self) -> float | None:
        """When the first pause is over; None where there is none."""
        return min((when for when, _ in self._held), default=None)

    def end_of(self, page: int) -> float | None:
        """When the pause of `page` is over; None where it does not pause."""
        return next((when for when, paused in self._held if paused == page), None)

    def pages(self) -> list[int]:
        """The pages that pause."""
        return [page for _, page in self._held]

    def end(self, page: int) -> None:
        """What became of `page` is known: it pauses no more."""
        self._held = [(when, paused) for when, paused in self._held if paused != page]

    def clear(self) -> None:
        """None pauses any more."""
        self._held.clear()
