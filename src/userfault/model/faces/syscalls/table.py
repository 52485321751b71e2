"""The table from call to what the kernel does, and how a call ends."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from userfault.kernel import calls
from userfault.kernel.calls import Result, SignalInfo
from userfault.model.errors import BUS_MCEERR_AR, Errno, Signalled
from userfault.model.process import Thread

OK = Result()

C = TypeVar("C", bound=calls.Call)
TABLE: dict[type, Callable[[Thread, Any], Result]] = {}


def perform(task: Thread, call: calls.Call) -> Result:
    """Do it, in the task."""
    try:
        return TABLE[type(call)](task, call)
    except Errno as refusal:
        return Result(errno=refusal.code)
    except Signalled as signalled:
        return Result(signal=info(signalled))


def info(signalled: Signalled) -> SignalInfo:
    lsb = signalled.lsb if signalled.code == BUS_MCEERR_AR else 0
    return SignalInfo(signalled.number, signalled.code, signalled.address, lsb)


def serves(
    kind: type[C],
) -> Callable[[Callable[[Thread, C], Result]], Callable[[Thread, C], Result]]:
    def enter(function: Callable[[Thread, C], Result]) -> Callable[[Thread, C], Result]:
        TABLE[kind] = function
        return function

    return enter
