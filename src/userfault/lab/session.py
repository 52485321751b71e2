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
from userfault.lab.outside import FILE_SYSTEM
from userfault.lab.outside.table import OUTSIDE
from userfault.lab.store import Kernel
from userfault.model.memtypes.shmem import SHMEM

# Emulated, everything takes some ten times as long.
DEADLINE_S = 60.0
_PULSE_S = 15.0
_BOOTS = 2  # in a row that may fail


class Session:
    """One guest at a time of a kernel.  `close()` ends it.

    `outside`: the module of a memory type; its files stand for those of memfd_create(2) then.
    """

    def __init__(
        self,
        kernel: Kernel,
        *,
        memory_mib: int = 1024,
        extra: str = "",
        outside: Path | None = None,
    ) -> None:
        self._kernel = kernel
        self._memory_mib = memory_mib
        self._extra = extra
        modules = Path(kernel.modules) if kernel.modules else None
        self._system = image.system(Path(kernel.busybox), modules, outside)
        self.outside = outside is not None
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
            if self.outside:
                _see_module(self._guest)
        except GuestLost:
            self._guest = None
            self._failures += 1
            raise
        self._failures = 0
        return self._guest

    def live(self) -> CallKernel:
        """A factory of live kernels, each for one program."""
        return LiveKernel(GuestHost(self.guest(), image.OUTSIDE if self.outside else ""))

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
        """One statement on one memory; a lost machine is an outcome of it.

        What stands for shmem is called by its own name in the result.
        """
        named = memory.replace(SHMEM.name, OUTSIDE.name) if self.outside else memory
        try:
            self.guest()
        except GuestLost as error:
            return CaseResult(found.number, named, Verdict.LOST, str(error), 0.0)
        result = run_case(found, memory, self.live, deadline_s)
        result = msgspec.structs.replace(result, memory=named)
        lost = self.loss(doubtful=result.verdict is Verdict.LOST)
        if lost is None:
            return result
        return msgspec.structs.replace(result, verdict=Verdict.LOST, reason=str(lost))

    def close(self) -> None:
        """End the guest."""
        guest, self._guest = self._guest, None
        if guest is not None:
            guest.close()


def _see_module(guest: Guest) -> None:
    """Raises GuestLost unless the files of the module are there."""
    if f" {image.OUTSIDE} {FILE_SYSTEM} " in guest.read("/proc/mounts"):
        return
    told = [line for line in guest.console.splitlines() if FILE_SYSTEM in line]
    guest.close()
    raise GuestLost(
        "the module does not load", cause=told[0].strip() if told else "the console says nothing"
    )
