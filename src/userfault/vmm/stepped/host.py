"""What the script needs: a kernel of the protocol, memory, and CPUs that run in tasks of it."""

from __future__ import annotations

from typing import Protocol

import msgspec

from userfault.kernel.memtypes import Memory
from userfault.kernel.protocol import Kernel, Mapping, Pending, Process
from userfault.vmm.program import Walk


class Stop(msgspec.Struct, frozen=True):
    """Why a CPU stands still.  `checksum`: its walk is over.  `missing`: nothing is at this guest
    address, and KVM exits for that.  `failure`: it went wrong."""

    checksum: int | None = None
    missing: int | None = None
    failure: str = ""


class HostCpu(Protocol):
    """A CPU in a task of its own."""

    @property
    def thread_id(self) -> int:
        """As messages tell it."""

    @property
    def stop(self) -> Stop | None:
        """Why it stands still; None while it runs, or waits for a page."""

    def go(self) -> Pending:
        """Run until something stops it."""


class Host(Protocol):
    """A kernel with KVM."""

    @property
    def kernel(self) -> Kernel: ...

    @property
    def process(self) -> Process:
        """The machine's."""

    @property
    def exits_on_missing(self) -> bool:
        """Whether KVM exits for what a guest touches first of a guest_memfd."""

    def map(self, memory: Memory, length: int) -> Mapping:
        """The memory of the guest; once."""

    def cpu(self, number: int, walk: Walk, *, user: bool) -> HostCpu:
        """A CPU that begins a walk over it."""

    def close(self) -> None:
        """Let go of everything; nothing waits any more."""
