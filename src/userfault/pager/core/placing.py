"""Where the user wants the pager to run, what is seen of that, and where to be: as data."""

from __future__ import annotations

import contextlib
import functools
import operator

import msgspec

from userfault.kernel.errors import UsageError
from userfault.kernel.numbers import real

FOLLOW, ANY = "follow", "any"


class Placing(msgspec.Struct, frozen=True):
    """Where the user wants the pager to run.

    `cpu`: "follow" (where the faults come from), "any" (as the scheduler likes) or a CPU's number.
    `poll_budget`: how much of a CPU's time it may spend on polling, 0 to 1.
    Raises UsageError for anything else.
    """

    cpu: str | int = FOLLOW
    poll_budget: float = 0.5

    def __post_init__(self) -> None:
        put = functools.partial(msgspec.structs.force_setattr, self)
        put("cpu", _cpu(self.cpu))
        put("poll_budget", real("poll_budget", self.poll_budget))
        if not 0 <= self.poll_budget <= 1:
            raise UsageError(
                f"poll_budget={self.poll_budget!r}",
                cause="it is a share of one CPU's time",
                cure="pass 0 (never poll) to 1 (poll whenever that is a gain)",
            )


def _cpu(cpu: str | int) -> str | int:
    """A place for a pager; True and False are no numbers of CPUs."""
    if isinstance(cpu, str) and cpu in (FOLLOW, ANY):
        return str.__str__(cpu)
    number = -1
    if not isinstance(cpu, bool):
        with contextlib.suppress(TypeError):
            number = operator.index(cpu)  # type: ignore[arg-type]  # any other text is none
    if not 0 <= number < 1 << 31:
        raise UsageError(
            f"cpu={cpu!r}",
            cause="not a place for a pager",
            cure='use "follow", "any" or the number of a CPU',
        )
    return number


class Stand(msgspec.Struct, frozen=True):
    """Where to be until the next look.

    `cpus`: on one of these.  `polls`: waking us there takes long, so polling is a gain.
    `look_after`: faults until the next look.
    """

    cpus: frozenset[int]
    polls: bool
    look_after: int


class Look(msgspec.Struct, frozen=True):
    """What was seen at `now` (seconds): a thread that had faulted is on `cpu`.

    `bound`: it may run on that CPU only.  `thread` is 0 when only `working` has changed: whether
    there is background work to do.
    `faults`, `waited_s`: since the look before, faults served and how long we were kept waiting
    for a CPU by others than these threads.
    """

    now: float
    thread: int
    cpu: int
    bound: bool
    working: bool
    faults: int
    waited_s: float
