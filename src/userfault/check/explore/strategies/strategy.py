"""What decides who runs: three methods, called at the beginning, at each choice, at the end."""

from __future__ import annotations

from typing import Protocol

from userfault.check.explore.steps import Run, Step

CUT = -1  # instead of a task: this schedule is not worth running to its end


class Here(Protocol):
    """Where a choice has to be made.  It is valid during the call only."""

    steps: list[Step]  # so far; the last one is finished
    enabled: tuple[int, ...]  # who can run, in order of their numbers; never empty
    current: int  # who would go on if nobody is preempted; NOBODY if the last one cannot


class Strategy(Protocol):
    """A way through the schedules of one scenario.

    A strategy that repeats the beginning of the run before says so in `begin`: these steps are
    replayed without asking it, without recording, and without looking at invariants again.
    """

    @property
    def records(self) -> bool:
        """Whether it looks at what steps read and wrote."""

    @property
    def exhausts(self) -> bool:
        """Whether nothing is left that could end otherwise once `begin` has returned None."""

    def begin(self) -> int | None:
        """Start a schedule: how many first choices are those of the last one.  None: no more."""

    def choose(self, here: Here) -> int:
        """Who of `here.enabled` runs next, or CUT."""

    def end(self, run: Run) -> None:
        """The schedule is over: all its steps, with what each read and wrote."""


class Once:
    """The first method of a strategy that makes one schedule."""

    exhausts = False
    records = True
    _began = False

    def begin(self) -> int | None:
        """From the start; the second time there is nothing more."""
        if self._began:
            return None
        self._began = True
        return 0
