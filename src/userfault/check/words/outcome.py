"""How a statement ends: a verdict, and the exceptions that lead to it."""

from __future__ import annotations

import enum

import msgspec

from userfault.kernel.errors import UserfaultError


class Verdict(enum.Enum):
    """What became of one statement on one memory."""

    PASSED = "passed"
    FAILED = "failed"  # the kernel did something else
    CANNOT_RUN = "cannot run here"  # this system lacks what it needs; the reason says what
    LOST = "lost"  # a hang or a crash: of a process under test, or of the kernel's model


class Failed(UserfaultError):  # noqa: N818  # reads as what happened
    """The kernel did not do what the statement promises."""


class CannotRun(UserfaultError):  # noqa: N818
    """This system lacks what the statement needs."""


class Lost(UserfaultError):  # noqa: N818
    """A process of the statement ended by itself, or never came to rest."""


class CaseResult(msgspec.Struct, frozen=True):
    """One statement on one memory (empty: it is about none).

    `reason` says why it is not passed.  `trace` is every call that was made, with its answer.
    """

    number: int
    memory: str
    verdict: Verdict
    reason: str
    seconds: float
    trace: tuple[str, ...] = ()


def expect(seen: object, promised: object, what: str) -> None:
    """Fail unless what was seen is what was promised."""
    if seen != promised:
        raise Failed(f"{what}: promised {_show(promised)}, saw {_show(seen)}")


def _show(value: object) -> str:
    if isinstance(value, int) and not isinstance(value, enum.Enum | bool) and abs(value) > 0xFFF:
        return hex(value)
    return repr(value)
