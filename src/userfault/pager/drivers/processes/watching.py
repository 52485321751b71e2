"""What is asked of the loop of a process: to hear from others, and of times."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Protocol


class Timer(Protocol):
    """Something that waits for a time.  It is in `Loop.timers` while it does."""

    def next_time(self) -> float | None:
        """When `tick` is to be called; None while it waits for nothing: the loop forgets it."""

    def tick(self, now: float) -> None:
        """Do what is due at `now`, if anything is."""


class Look(Protocol):
    """Something that is looked at now and then, because nobody tells."""

    def look(self, now: float) -> float:
        """Look, if it is due: how many seconds to sleep at most if nothing happens."""


class Watching(Protocol):
    """A loop that calls who has watched a descriptor."""

    def watch(self, fd: int, handler: Callable[[], None], *, edge: bool = False) -> None:
        """Call `handler` when `fd` is readable; with `edge`, once for each time that more comes."""

    def forget(self, fd: int) -> None:
        """No more."""

    def lifted(self) -> contextlib.AbstractContextManager[None]:
        """Within it, what is started (a thread, a process) inherits no place of ours."""


class Loop(Watching, Protocol):
    """One that also knows of times.  `timers`: who waits for one."""

    @property
    def timers(self) -> dict[Timer, None]:
        """Whoever is in here is called when its time has come."""

    def look_at(self, what: Look) -> None:
        """Look at it from now on."""
