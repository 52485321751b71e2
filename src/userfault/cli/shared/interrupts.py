"""Being interrupted in good order: signals unwind the stack, but not in the middle of a change.

An exception in the middle of starting a process, or of enlarging a pool, would leave behind what
nobody knows of yet.
"""

from __future__ import annotations

import contextlib
import signal
import sys
from collections.abc import Iterator
from types import FrameType
from typing import NoReturn

_ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def unwind_on_signals() -> None:
    """From now on SIGTERM and SIGHUP raise SystemExit, as Ctrl-C raises KeyboardInterrupt."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is signal.SIG_DFL:  # nohup ignores SIGHUP: so it stays
            signal.signal(number, _leave)


def _leave(number: int, frame: FrameType | None) -> NoReturn:
    del frame
    sys.exit(128 + number)


@contextlib.contextmanager
def deferred() -> Iterator[None]:
    """Signals that come within the block act at its end."""
    came: list[int] = []
    before = {number: signal.getsignal(number) for number in _ENDING}
    # A handler, not a mask: a child process would inherit the mask.
    for number, handler in before.items():
        if callable(handler):
            signal.signal(number, lambda which, _: came.append(which))
    try:
        yield
    finally:
        for number, handler in before.items():
            if callable(handler):
                signal.signal(number, handler)
        for late in dict.fromkeys(came):
            signal.raise_signal(late)
