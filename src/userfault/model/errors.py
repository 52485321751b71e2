"""What leaves a modelled call: an errno, a signal, or the discovery of a mistake.

`Errno`, `Signalled` and `Killed` are outcomes that a real kernel has too.  The others have no
errno: they say that a memory type, a test program or the model itself broke a rule.
"""

from __future__ import annotations

import errno
import os
import signal

from userfault.kernel.errors import UserfaultError


class Errno(Exception):  # noqa: N818  # an outcome, not a mistake
    """A call ends with this errno."""

    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code

    def __str__(self) -> str:
        return f"{errno.errorcode.get(self.code, self.code)}: {os.strerror(self.code)}"


# Values of `si_code`.
SEGV_MAPERR = 1
SEGV_ACCERR = 2
BUS_ADRERR = 2
BUS_MCEERR_AR = 4


class Signalled(Exception):  # noqa: N818  # an outcome
    """A touch of memory ends with a signal: number, `si_code`, `si_addr`, `si_addr_lsb`."""

    def __init__(self, number: int, code: int, address: int, lsb: int = 0) -> None:
        super().__init__(number, code, address, lsb)
        self.number = number
        self.code = code
        self.address = address
        self.lsb = lsb

    def __str__(self) -> str:
        return f"{signal.Signals(self.number).name} code {self.code} at {self.address:#x}"


class Killed(Exception):  # noqa: N818  # an outcome
    """The task's process ended (exit or SIGKILL) while the task was in the kernel."""


class Refused(Exception):  # noqa: N818  # an answer of a hook
    """A memory type's hook declines with an errno (never EAGAIN: only the core retries)."""

    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code


class ContractBreach(UserfaultError):  # noqa: N818  # what happened
    """A memory type broke the contract of a hook; what it did was undone."""

    def __init__(self, kind: str, hook: str, rule: str) -> None:
        super().__init__(
            f"memory type {kind!r} broke the contract of {hook}",
            cause=rule,
            cure="see the rules in userfault.model.memtypes.ops",
        )
        self.kind = kind
        self.hook = hook
        self.rule = rule


class Deadlock(UserfaultError):  # noqa: N818  # what happened
    """Nobody can run, and somebody was expected to: `waits` has (task, what it waits for)."""

    def __init__(self, waits: list[tuple[str, str]]) -> None:
        told = "; ".join(f"{task} waits for {what}" for task, what in waits)
        super().__init__("no task can run", cause=told or "no task has work left")
        self.waits = waits


class InvariantBroken(UserfaultError):  # noqa: N818  # what happened
    """`check()` found the model's state unsound."""
