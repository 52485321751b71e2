"""The protocol of a kernel: processes with tasks, mappings and userfaultfds.

Both kernels satisfy it, so a program written against it runs on either.  The rules:

* Every call runs in the process that *holds* the handle: the buffer given to COPY is memory of
  that process, MOVE works only in the owner, the context of a FORK event lands in the reader.
* Methods are plain calls, one an ioctl: they return a result or raise, and never retry.
* What may block (touching memory, madvise, munmap, fork, ...) belongs to a task and returns a
  `Pending` at once.
* Addresses and lengths are in bytes.

What only one kernel can do (scheduling points and invariants; real time and file descriptors) is
outside the protocol.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from typing import Any, Protocol, TypeAlias

import msgspec

from userfault.kernel.events import Fork, PageFault, Remap, Remove, Unmap
from userfault.kernel.memtypes import Memory
from userfault.kernel.modes import Feature, Ioctls, Mode

Event: TypeAlias = "PageFault | Fork[Any] | Remap | Remove | Unmap"
# An address in the calling process, or any object with the buffer protocol.
CopySource: TypeAlias = "int | bytes | bytearray | memoryview | Any"


class State(enum.Enum):
    """How far a task's operation is."""

    NOT_STARTED = "not started"
    RUNNING = "running"
    BLOCKED = "blocked"
    DONE = "done"


class Outcome(msgspec.Struct, frozen=True):
    """How an operation of a task ended: exactly one of bytes, value, errno and signal counts.

    `data`: what a read returned.  `value`: the result of a call.  `errno`: why it failed.
    `signal`: the signal that the access raised (SIGBUS for poison, SIGSEGV for no permission).
    """

    data: bytes = b""
    value: int = 0
    errno: int = 0
    signal: int = 0


class Pending(Protocol):
    """An operation that a task was given."""

    @property
    def state(self) -> State:
        """Where it stands now."""

    @property
    def waits_for(self) -> str:
        """What a BLOCKED operation waits for (`fault`, `event`), else the empty string."""

    def result(self, timeout_s: float = ...) -> Outcome:
        """The outcome; raises TimeoutError if it is not there within `timeout_s` seconds."""


class Task(Protocol):
    """A thread of a process: one operation at a time, in the order given."""

    def read(self, address: int, length: int) -> Pending:
        """Read memory."""

    def write(self, address: int, data: bytes) -> Pending:
        """Write memory."""

    def madvise(self, address: int, length: int, advice: int) -> Pending:
        """madvise(2): DONTNEED, FREE and REMOVE wait for their event to be read."""

    def munmap(self, address: int, length: int) -> Pending:
        """munmap(2): waits for its event to be read."""

    def mprotect(self, address: int, length: int, protection: int) -> Pending:
        """mprotect(2): raises no event, may split the mapping."""

    def mremap(
        self, address: int, old_length: int, new_length: int, flags: int, new_address: int = ...
    ) -> Pending:
        """mremap(2): the value is the new address; waits for its events to be read."""


class Backing(Protocol):
    """The object behind a mapping (memfd, hugetlb file, guest_memfd): can be mapped again."""

    @property
    def length(self) -> int:
        """Its size in bytes."""

    def read(self, offset: int, length: int) -> bytes:
        """Its bytes, read without touching a registered mapping."""

    def write(self, offset: int, data: bytes) -> None:
        """Write through the file or an alias: other mappings see it at once."""

    def punch_hole(self, offset: int, length: int) -> None:
        """fallocate(PUNCH_HOLE): pages go without any event."""

    def truncate(self, length: int) -> None:
        """ftruncate: accesses beyond the new end raise SIGBUS."""


class Mapping(Protocol):
    """A range of one process's address space, of one memory."""

    @property
    def memory(self) -> Memory: ...

    @property
    def address(self) -> int: ...

    @property
    def length(self) -> int: ...

    @property
    def backing(self) -> Backing | None:
        """None for anonymous memory and private hugetlb without a file."""

    def close(self) -> None:
        """Unmap what is left of it."""


class Userfaultfd(Protocol):
    """A userfaultfd after its handshake: one handle held by one process.

    Fills raise `KernelError` subclasses that carry `done` bytes and `resume`; they return the
    length done, which then is the length asked for.
    """

    @property
    def features(self) -> Feature:
        """What the handshake granted (all that was asked for)."""

    @property
    def offered(self) -> Feature:
        """Everything this kernel offers."""

    def register(self, start: int, length: int, mode: Mode) -> Ioctls:
        """UFFDIO_REGISTER: the ioctls that the range accepts."""

    def unregister(self, start: int, length: int) -> None:
        """UFFDIO_UNREGISTER: wakes waiters of MISSING ranges only."""

    def read(self, limit: int = ...) -> Sequence[Event]:
        """Up to `limit` queued events, faults first; empty when nothing is queued."""

    def copy(
        self, dst: int, src: CopySource, length: int, *, wake: bool = ..., wp: bool = ...
    ) -> int:
        """UFFDIO_COPY from memory of the process that calls."""

    def zeropage(self, start: int, length: int, *, wake: bool = ...) -> int:
        """UFFDIO_ZEROPAGE."""

    def continue_(self, start: int, length: int, *, wake: bool = ..., wp: bool = ...) -> int:
        """UFFDIO_CONTINUE: map pages that are in the page cache."""

    def poison(self, start: int, length: int, *, wake: bool = ...) -> int:
        """UFFDIO_POISON: accesses raise SIGBUS (6.6)."""

    def move(
        self, dst: int, src: int, length: int, *, wake: bool = ..., allow_src_holes: bool = ...
    ) -> int:
        """UFFDIO_MOVE of pages of the owner, by the owner (6.8)."""

    def wake(self, start: int, length: int) -> None:
        """UFFDIO_WAKE: every waiter in the range faults again."""

    def writeprotect(self, start: int, length: int, *, protect: bool, wake: bool = ...) -> None:
        """UFFDIO_WRITEPROTECT: protect, or resolve and wake."""

    def rwprotect(self, start: int, length: int, *, protect: bool, wake: bool = ...) -> None:
        """UFFDIO_RWPROTECT (7.3)."""

    def set_mode(self, *, enable: Feature = ..., disable: Feature = ...) -> None:
        """UFFDIO_SET_MODE (7.3): RWP_ASYNC on or off while running."""

    def close(self) -> None:
        """Drop this handle.  The last one to go unregisters everything: faults then get zeros."""


class Process(Protocol):
    """An address space with its tasks and descriptors."""

    def map(
        self,
        memory: Memory,
        length: int,
        *,
        backing: Backing | None = ...,
        offset: int = ...,
        writable: bool = ...,
        grow_pool: bool = ...,
    ) -> Mapping:
        """A new mapping; with `backing`, an alias of what is there already."""

    def userfaultfd(self, features: Feature = ..., *, user_mode_only: bool | None = ...) -> Any:
        """A new userfaultfd with exactly these features; raises FeatureMissing naming each."""

    def task(self) -> Task:
        """A new thread."""


class Kernel(Protocol):
    """A kernel: makes processes, and says when nothing more happens by itself."""

    @property
    def name(self) -> str:
        """For reports, as `Linux 6.18.44` or `model 7.3`."""

    def process(self) -> Process:
        """A process (live: the calling one)."""

    def settle(self, timeout_s: float = ...) -> None:
        """Return when every task is idle, done or blocked; TimeoutError after `timeout_s`."""
