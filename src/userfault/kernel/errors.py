"""Every exception this project raises, with what was tried, the likely cause and the cure.

Three families, by whose fault it was:

* `UsageError`: the caller's (bad alignment, a lambda as source): mend the call;
* `Unavailable`: this system's (no privilege, no such feature): the cure says what to change;
* `KernelError`: the kernel refused an operation; carries the errno and the bytes done before it.

`SourceError` and `PagerError` report the two parties of a lazy restore.  Texts for errno values
are in `explain.py`, since both kernels share them.
"""

# ruff: noqa: N818  # the names say what happened; that each is an error, its base class says
from __future__ import annotations

import errno as _errno
from typing import Any

from userfault.kernel.explain import explain
from userfault.kernel.names import shown


class UserfaultError(Exception):
    """Base of all: `what` was tried, its `cause`, the `cure`."""

    def __init__(self, what: str, *, cause: str = "", cure: str = "") -> None:
        super().__init__(what)
        self.what = what
        self.cause = cause
        self.cure = cure

    def __str__(self) -> str:
        text = self.what
        if self.cause:
            text += f": {self.cause}"
        if self.cure:
            text += f" (cure: {self.cure})"
        # Names and words of others are in it, and a traceback writes it to a terminal.
        return text if text.isprintable() else "\n".join(map(shown, text.split("\n")))


class UsageError(UserfaultError, ValueError):
    """The call cannot mean anything: nothing was tried."""


class SourceTypeError(UserfaultError, TypeError):
    """This object cannot be a source."""


class Unavailable(UserfaultError):
    """This system does not offer what was asked; `cure` says what to change."""


class OpenRefused(Unavailable, PermissionError):
    """No way of opening a userfaultfd worked; `attempts` has (way, errno) of each one tried."""

    def __init__(self, attempts: list[tuple[str, int]], cure: str) -> None:
        told = "; ".join(f"{way}: {_name(code)}" for way, code in attempts)
        super().__init__("cannot open a userfaultfd", cause=told, cure=cure)
        self.attempts = attempts

    def __reduce__(self) -> tuple[Any, ...]:
        # OSError would rebuild it from the text alone.
        return type(self), (self.attempts, self.cure)


class FeatureMissing(Unavailable):
    """The kernel lacks features that were asked for; `missing` names each."""

    def __init__(self, missing: list[str], offered: list[str]) -> None:
        super().__init__(
            f"this kernel lacks the userfaultfd feature{'s' * (len(missing) > 1)} "
            + ", ".join(missing),
            cause=f"it offers {', '.join(offered) or 'none'}",
            cure="ask for fewer features or run a newer kernel (first releases: docs/kernels.md)",
        )
        self.missing = missing
        self.offered = offered

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.missing, self.offered)


class MemoryUnavailable(Unavailable):
    """A memory of this type cannot be made here (no pool, no device, no space)."""


class KernelError(UserfaultError, OSError):
    """The kernel refused `operation` with `errno`.

    `start`, `length`: the range asked for, in bytes (None where there is none).  `done`: bytes
    completed before the refusal; `resume` is where to go on.  A partial fill has errno EAGAIN
    from the kernel; the call at `resume` reveals the real error (measured on 6.1 to 7.3).
    """

    errno: int

    def __init__(
        self,
        operation: str,
        errno: int,
        *,
        start: int | None = None,
        length: int | None = None,
        done: int = 0,
        memory: str = "",
        cause: str = "",
        cure: str = "",
    ) -> None:
        # Texts are made when somebody reads them: a pager meets EAGAIN and EEXIST all the time.
        Exception.__init__(self, operation, errno)
        self.operation = operation
        self.errno = errno
        self.start = start
        self.length = length
        self.done = done
        self.memory = memory
        self._cause = cause
        self._cure = cure

    @classmethod
    def of(
        cls,
        operation: str,
        errno: int,
        *,
        start: int | None = None,
        length: int | None = None,
        done: int = 0,
        memory: str = "",
        cause: str = "",
        cure: str = "",
    ) -> KernelError:
        """The error of the class that stands for `errno`."""
        return _BY_ERRNO.get(errno, KernelError)(
            operation,
            errno,
            start=start,
            length=length,
            done=done,
            memory=memory,
            cause=cause,
            cure=cure,
        )

    @property
    def resume(self) -> int:
        """The address at which the rest of the range begins."""
        return (self.start or 0) + self.done

    @property
    def what(self) -> str:  # type: ignore[override]  # a text computed on demand
        text = f"{self.operation} failed with {_name(self.errno)}"
        if self.start is not None and self.length is not None:
            text += f" on [{self.start:#x}, {self.start + self.length:#x})"
        if self.memory:
            text += f" of {self.memory}"
        if self.done:
            text += f" after {self.done} bytes"
        return text

    @property
    def cause(self) -> str:  # type: ignore[override]
        return self._cause or explain(self.operation, self.errno).cause

    @property
    def cure(self) -> str:  # type: ignore[override]
        return self._cure or explain(self.operation, self.errno).cure

    def __str__(self) -> str:
        return UserfaultError.__str__(self)


class TryAgain(KernelError):
    """EAGAIN: an event is pending, or the fill stopped after `done` bytes."""


class PageExists(KernelError):
    """EEXIST: there is a page at `resume` already."""


class NotRegistered(KernelError):
    """ENOENT: no registered mapping holds the whole range (or it lacks the mode)."""


class OwnerGone(KernelError):
    """ESRCH: the process that owns the memory has exited."""


class RegistrationRefused(KernelError, Unavailable):
    """UFFDIO_REGISTER: this memory cannot have these modes on this kernel."""


class SourceError(UserfaultError):
    """The source did not deliver bytes [`offset`, `offset` + `length`)."""

    def __init__(
        self, what: str, *, offset: int = 0, length: int = 0, cause: str = "", cure: str = ""
    ) -> None:
        super().__init__(what, cause=cause, cure=cure)
        self.offset = offset
        self.length = length


class PagerError(UserfaultError):
    """The pager process could not be started, refused a request, or has died."""


class TrackingLost(UserfaultError):
    """Writes were not seen for a while: every page may have been written since the last answer."""


class FaultOverdue(PagerError):
    """Threads wait for pages for longer than the policy's `fault_deadline_s`, and wait on."""


def _name(code: int) -> str:
    return _errno.errorcode.get(code, f"errno {code}")


_BY_ERRNO: dict[int, type[KernelError]] = {
    _errno.EAGAIN: TryAgain,
    _errno.EEXIST: PageExists,
    _errno.ENOENT: NotRegistered,
    _errno.ESRCH: OwnerGone,
}
