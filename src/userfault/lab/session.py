"""A kernel under test, in a machine that is booted again whenever it is lost."""

from __future__ import annotations

from pathlib import Path

import msgspec

from userfault.check.live.kernel import LiveKernel
from userfault.check.run import run_case
from userfault.check.words.outcome import CaseResult, Verdict
from userfault.check.words.statement import Statement
from userfault.kernel.calls import CallKernel
from userfault.lab import image
from userfault.lab.guest import Guest, GuestLost
from userfault.lab.host import GuestHost
from userfault.lab.store import Kernel

# Emulated, everything takes some ten times as long.
DEADLINE_S = 60.0
_PULSE_S = 15.0
_BOOTS = 2  # in a row that may fail


class Session:
    """One guest at a time of a kernel.  `close()` ends it."""

    def __init__(self, kernel: Kernel, *, memory_mib: int = 1024, extra: str = "") -> None:
        self._kernel = kernel
        self._memory_mib = memory_mib
        self._extra = extra
        modules = Path(kernel.modules) if kernel.modules else None
        self._system = image.system(Path(kernel.busybox), modules)
        self._guest: Guest | None = None
        self._failures = 0

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def guest(self) -> Guest:
        """The guest; boots it if there is none.  Raises GuestLost where it does not come up.

        After two failures in a row it is not tried any more.
        """
        if self._guest is not None:
            return self._guest
        if self._failures >= _BOOTS:
            raise GuestLost(f"{self._kernel.name} does not boot: it was tried {_BOOTS} times")
        try:
            self._guest = Guest(
                Path(self._kernel.vmlinuz),
                self._system,
                memory_mib=self._memory_mib,
                extra=self._extra,
            )
        except GuestLost:
            self._failures += 1
            raise
        self._failures = 0
        return self._guest

    def live(self) -> CallKernel:
        """A factory of live kernels, each for one program."""
        return LiveKernel(GuestHost(self.guest()))

    def loss(self, *, doubtful: bool) -> GuestLost | None:
        """Why the guest is lost, if it is: then the next program boots another.

        `doubtful`: ask it whether it still answers.
        """
        guest = self._guest
        if guest is None:
            return None
        if not guest.port.closed and not (doubtful and not guest.alive(_PULSE_S)):
            return None
        error = guest.lost("has died" if guest.port.closed else "hangs")
        self.close()
        return error

    def run_case(self, found: Statement, memory: str, deadline_s: float = DEADLINE_S) -> CaseResult:
        """One statement on one memory; a lost machine is an outcome of it."""
        try:
            self.guest()
        except GuestLost as error:
            return CaseResult(found.number, memory, Verdict.LOST, str(error), 0.0)
        result = run_case(found, memory, self.live, deadline_s)
        lost = self.loss(doubtful=result.verdict is Verdict.LOST)
        if lost is None:
            return result
        return msgspec.structs.replace(result, verdict=Verdict.LOST, reason=str(lost))

    def close(self) -> None:
        """End the guest."""
        guest, self._guest = self._guest, None
        if guest is not None:
            guest.close()
