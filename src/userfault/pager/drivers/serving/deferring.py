"""Contexts whose fills met EAGAIN, and when each is tried again.

A fill meets EAGAIN while an event is pending, or its thread has not run since it was read.  The
first lasts until the event is read: then the context is tried at once.  The second lasts until
that thread is scheduled (72 µs on an idle machine, 36 ms were seen on a busy one; a thread that is
stopped still runs that far, but one that threads of a higher class keep from its CPU does not).
So pauses grow, from 20 µs to 1 ms, and after a while to a fiftieth of the time that it lasts
already.  Nobody else waits meanwhile: other contexts are served, and filled in the background.
"""

from __future__ import annotations

from userfault.pager.drivers.mappings.served import Context
from userfault.pager.drivers.processes.watching import Timer
from userfault.pager.drivers.serving.acting import Acting

_FIRST_PAUSE_S = 20e-6
_LONG_PAUSE_S = 1e-3
_LONGEST_PAUSE_S = 50e-3
_SHARE = 1 / 50


class _Pause:
    """Of one context: since when, how long now, and until when."""

    __slots__ = ("length", "since", "until")

    def __init__(self, now: float) -> None:
        self.since = now
        self.length = 0.0
        self.until = now


class Deferring:
    """The contexts with fills put aside.  Times are those of one monotonic clock, in seconds."""

    def __init__(self, timers: dict[Timer, None], acting: Acting) -> None:
        self._timers = timers
        self._acting = acting
        self._pauses: dict[Context, _Pause] = {}

    def __bool__(self) -> bool:
        return bool(self._pauses)

    def add(self, context: Context, now: float) -> None:
        """A fill of `context` was put aside."""
        if context not in self._pauses:
            self._pauses[context] = _Pause(now)
            self._timers[self] = None

    def discard(self, context: Context) -> None:
        """Nothing of `context` is put aside any more."""
        self._pauses.pop(context, None)

    def event_read(self, context: Context) -> None:
        """What fills may have failed for was read: try at once."""
        pause = self._pauses.get(context)
        if pause is not None:
            pause.until = pause.length = 0.0

    def next_time(self) -> float | None:
        """When the first of them is to be tried."""
        return min((pause.until for pause in self._pauses.values()), default=None)

    def tick(self, now: float) -> None:
        """Try again those whose pause is over."""
        for context in [each for each, pause in self._pauses.items() if pause.until <= now]:
            if context.closed:
                self.discard(context)
                continue
            with self._acting.costs(context.served):
                context.core.retry()
                self._acting.perform(context)
            if context.core.deferred:
                self._failed_again(context, now)
            else:
                self.discard(context)

    def _failed_again(self, context: Context, now: float) -> None:
        """It was tried, and met EAGAIN once more."""
        pause = self._pauses.get(context)
        if pause is None:  # its process has ended meanwhile
            return
        longest = min(max((now - pause.since) * _SHARE, _LONG_PAUSE_S), _LONGEST_PAUSE_S)
        pause.length = min(max(pause.length * 2, _FIRST_PAUSE_S), longest)
        pause.until = now + pause.length
