"""A signal handler that raises in the middle of what the client does: scenes for `helpers.child`.

CPython calls handlers between bytecodes: after calls, at the beginning of functions, and where a
loop goes back (ceval.c, 3.11 to 3.14).  `Strike` raises at the n-th such place that the main thread
comes to in our package.
"""

from __future__ import annotations

import contextlib
import dis
import gc
import os
import random
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import userfault
from helpers.leaks import descriptors
from helpers.pages import PAGE
from userfault import Policy, lazy

PLACES = ("CALL", "RESUME", "JUMP_BACKWARD", "POP_JUMP_BACKWARD")
PACKAGE = str(Path(userfault.__file__).parent)


class StruckError(Exception):
    """What the handler raises."""


class Strike:
    """Raises at place `number`; `left` is below zero once it has."""

    def __init__(self, number: int) -> None:
        self.left = number
        self._last: dict[FrameType, str] = {}  # what each frame did last

    def __enter__(self) -> Strike:
        sys.settrace(self._trace)
        return self

    def __exit__(self, *exc: object) -> None:
        sys.settrace(None)
        self._last.clear()  # frames keep what they have

    def _trace(self, frame: FrameType, event: str, _: Any) -> Any:
        if not frame.f_code.co_filename.startswith(PACKAGE):
            return None
        frame.f_trace_opcodes = True
        if event == "opcode":
            last = self._last.get(frame, "")
            self._last[frame] = dis.opname[frame.f_code.co_code[frame.f_lasti]]
            if last.startswith(PLACES) and not last.startswith("CALL_INTRINSIC"):
                self.left -= 1
                if self.left == -1:
                    raise StruckError
        return self._trace


def held() -> dict[str, Any]:
    """What this process holds that it could forget to let go of."""
    me = os.getpid()
    return {
        "descriptors": sorted(descriptors().values()),
        "children": Path(f"/proc/self/task/{me}/children").read_text().split(),
        "mappings": Path("/proc/self/maps").read_text().count("userfault"),
        "tasks": len(os.listdir("/proc/self/task")),
    }


def at_rest() -> dict[str, Any]:
    """What is held once no thread of ours is about to end."""
    found: list[dict[str, Any]] = []
    while not found or found.count(found[-1]) < 10:
        time.sleep(0.01)
        found.append(held())
    return found[-1]


def left_behind(before: dict[str, Any]) -> dict[str, Any]:
    """What is held now and was not before; threads of ours have a while to end."""
    deadline = time.monotonic() + 20
    while (now := held()) != before and time.monotonic() < deadline:
        gc.collect()
        time.sleep(0.005)
    return {what: [before[what], now[what]] for what in now if now[what] != before[what]}


def everywhere(image: str, what: str, step: int, own_pager: bool) -> dict[str, Any]:
    """`what` is done again and again, struck at each place in turn (or one in `step`)."""
    with contextlib.ExitStack() as stack:
        pager = None if own_pager else stack.enter_context(userfault.Pager())
        work = _works(image, pager)[what]
        work(contextlib.nullcontext())  # what is imported and made once
        before = at_rest()
        for number in range(0, 1_000_000, step):
            strike = Strike(number)
            with contextlib.suppress(StruckError):
                work(strike)
            left = left_behind(before)
            if left:
                return {"struck at": number, "left": left}
            if strike.left >= 0:
                return {"strikes": number > 5 * step, "left": {}}
    raise AssertionError("it never came to its end")


Work = Callable[[contextlib.AbstractContextManager[Any]], None]


def _works(image: str, pager: userfault.Pager | None) -> dict[str, Work]:
    policy = Policy(background=False)

    def make(strike: contextlib.AbstractContextManager[Any]) -> None:
        with strike:
            memory = lazy(image, pager=pager, policy=policy)
        memory.close()

    def close(strike: contextlib.AbstractContextManager[Any]) -> None:
        memory = lazy(image, pager=pager, policy=policy)
        with strike:
            memory.close()

    def block(strike: contextlib.AbstractContextManager[Any]) -> None:
        with strike, lazy(image, pager=pager, policy=policy) as memory:
            memory[5 * PAGE]
            memory.prefetch(0, PAGE)

    def drop(strike: contextlib.AbstractContextManager[Any]) -> None:
        memory = lazy(image, pager=pager, policy=policy)
        with strike:
            del memory

    def array(strike: contextlib.AbstractContextManager[Any]) -> None:
        with strike:
            userfault.lazy_array(image, pager=pager, policy=policy)

    def buffer(strike: contextlib.AbstractContextManager[Any]) -> None:
        with strike:
            lazy(b"1234" * PAGE, pager=pager, policy=policy)

    def start(strike: contextlib.AbstractContextManager[Any]) -> None:
        with strike:
            userfault.Pager().close()

    return {
        "make": make, "close": close, "block": block, "drop": drop, "array": array,
        "buffer": buffer, "start": start,
    }  # fmt: skip


def by_alarms(image: str, seed: int, times: int) -> dict[str, Any]:
    """Handlers of a real signal, at random moments of everything."""

    def strike(*_: object) -> None:
        raise StruckError

    data = Path(image).read_bytes()
    with lazy(image) as memory:
        memory.complete()
    before = at_rest()
    signal.signal(signal.SIGALRM, strike)
    dice = random.Random(seed)
    struck = wrong = 0
    for _ in range(times):
        try:
            with alarm(dice.uniform(0.001, 0.1)), lazy(image) as memory:
                memory.complete(timeout=20)
                wrong += memory[:] != data
        except StruckError:
            struck += 1
    del memory
    return {"struck": struck > 0, "wrong": wrong, "left": left_behind(before)}


@contextlib.contextmanager
def alarm(seconds: float) -> Iterator[None]:
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        with contextlib.suppress(StruckError):
            signal.setitimer(signal.ITIMER_REAL, 0)
