"""Running statements: each on a kernel of its own, with a deadline, whatever happens in it."""

from __future__ import annotations

import contextlib
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from typing import TypeAlias

from userfault.check.words.outcome import CannotRun, CaseResult, Failed, Lost, Verdict
from userfault.check.words.statement import Statement
from userfault.check.words.thread import Thread, start
from userfault.kernel.calls import UNRELEASED, CallKernel
from userfault.kernel.errors import Unavailable
from userfault.kernel.modes import Feature

KernelFactory: TypeAlias = Callable[[], CallKernel]

DEADLINE_S = 20.0

_VERDICTS: dict[type[Exception], Verdict] = {
    Failed: Verdict.FAILED,
    CannotRun: Verdict.CANNOT_RUN,
    Lost: Verdict.LOST,
    TimeoutError: Verdict.LOST,
}


def run(
    statements: Iterable[Statement],
    make_kernel: KernelFactory,
    *,
    memories: frozenset[str] | None = None,
    deadline_s: float = DEADLINE_S,
) -> Iterator[CaseResult]:
    """Run each statement on each of its memories (of those in `memories`, if given)."""
    for found in statements:
        for memory in found.memories or ("",):
            if memories is None or not memory or memory in memories:
                yield run_case(found, memory, make_kernel, deadline_s)


def run_case(
    found: Statement, memory: str, make_kernel: KernelFactory, deadline_s: float = DEADLINE_S
) -> CaseResult:
    """Run one statement on one memory."""
    began = time.monotonic()
    trace: list[str] = []
    try:
        with contextlib.closing(make_kernel()) as kernel:
            verdict, reason = _judge(found, memory, kernel, deadline_s, trace)
    except Unavailable as error:  # no agent
        verdict, reason = Verdict.CANNOT_RUN, str(error)
    except Exception as error:  # a model whose invariants do not hold at the end
        verdict, reason = Verdict.LOST, _crash(error)
    seconds = time.monotonic() - began
    return CaseResult(found.number, memory, verdict, reason, seconds, tuple(trace))


def _judge(
    found: Statement, memory: str, kernel: CallKernel, deadline_s: float, trace: list[str]
) -> tuple[Verdict, str]:
    if kernel.release < found.since:
        since = "by no released kernel"
        if found.since != UNRELEASED:
            since = f"since Linux {found.first_release}"
        return Verdict.CANNOT_RUN, f"it is kept {since}; this is {kernel.name}"
    thread: Thread | None = None
    try:
        thread = start(kernel, deadline_s)
        found.run(thread, memory)
    except tuple(_VERDICTS) as error:
        return _VERDICTS[type(error)], str(error)
    except Unavailable:
        raise
    except Exception as error:  # a model that breaks, or a statement: neither may end the run
        return Verdict.LOST, _crash(error)
    finally:
        if thread is not None:
            trace += thread.program.trace
    return Verdict.PASSED, ""


def _crash(error: Exception) -> str:
    where = traceback.extract_tb(error.__traceback__)[-1]
    return f"crash: {error!r} at {where.filename}:{where.lineno}"


def unknown_features(make_kernel: KernelFactory) -> int:
    """Feature bits that this kernel offers and this package does not know.

    (A model of a kernel that nobody has released may have bits of its own.)
    """
    known = 0
    for feature in Feature:
        known |= feature
    with contextlib.closing(make_kernel()) as kernel:
        thread = start(kernel, DEADLINE_S)
        try:
            # As numbers: the complement of a Feature has known bits alone.
            return 0 if thread.unreleased else int(thread.offered_features()) & ~int(known)
        except CannotRun:  # no userfaultfd at all: each statement will say so
            return 0
