"""How much of a memory may be resident, and of which type it is then.

Decided once, before it is made (docs/decisions/0022-a-large-source-is-shared-memory.md).
"""

from __future__ import annotations

import errno
import os
import tempfile
from collections.abc import Callable

import msgspec

from userfault.api.options import Options
from userfault.kernel.errors import UsageError
from userfault.kernel.memtypes import MIB, Memory, MemoryType, round_up, size_name
from userfault.kernel.memtypes import memory as named_memory
from userfault.linux.refused import calling
from userfault.linux.room import Room, room_of
from userfault.pager.core.policy import LEAST_RESIDENT, Policy
from userfault.source.spec import FunctionSpec, Spec


class Budget(msgspec.Struct, frozen=True):
    """`memory`: what is mapped.  `size`: bytes that may be resident; 0: all of it.  `evicts`: what
    is beyond that is taken out.  `follows`: the size is what is left, and changes with that."""

    memory: Memory
    size: int = 0
    evicts: bool = False
    follows: bool = False

    def let_all_in(self, what: str, length: int) -> None:
        """Raise UsageError for `what` needs all `length` bytes in memory, and they may not be."""
        if self.evicts:
            raise UsageError(
                f"{what} of memory with a residency budget",
                cause=f"at most {size_name(self.size)} of its {length} bytes are in at once",
                cure="raise Policy(resident_bytes=), or set it to 0 for no budget",
            )


def decide(
    policy: Policy,
    spec: Spec,
    options: Options,
    *,
    fixed: bool,
    protects: bool,
    tell: Callable[[str], None],
) -> Budget:
    """The memory of a source, and how much of it may be in.

    `fixed`: its type was asked for.  `protects`: the kernel has write protection for shared memory
    (5.19).  `tell`: hears of what cannot be kept, where nobody asked for it.  Raises UsageError for
    a budget that was asked for and cannot be kept.
    """
    memory, prepared = options.memory, options.prepared
    whole = round_up(spec.length, memory.page_size)
    room = room_of()
    asked = _asked(policy, room)
    size = min(asked if asked is not None else max(room.spare, 0) if room else whole, whole)
    if size >= whole or asked == 0 or (asked is None and prepared):  # that is in already
        return Budget(memory)
    if not fixed and protects and not options.fork and not prepared and not options.track:
        memory = named_memory("shmem")
    obstacle = _obstacle(memory, prepared)
    if options.track:
        obstacle = obstacle or "its writes are tracked (track=True), and no write asks first"
    if not protects:
        obstacle = obstacle or "this kernel does not protect it against writes (Linux 5.19 does)"
    if asked is None and isinstance(spec, FunctionSpec):
        obstacle = obstacle or "a function might answer otherwise when it is asked again"
    if asked is not None and asked < LEAST_RESIDENT:
        raise UsageError(
            f"a residency budget of {size_name(asked)}",
            cause=f"less than {size_name(LEAST_RESIDENT)} serves no program",
            cure="give it more; resident_bytes=0 is no budget",
        )
    size = max(size, LEAST_RESIDENT)
    if not obstacle:
        return Budget(memory, size, evicts=True, follows=asked is None)
    cure = "pass resident_bytes= to allow it" if memory.type is MemoryType.SHMEM else _SHMEM
    if asked is not None:
        what = f"a residency budget of {size_name(size)} for {memory}"
        raise UsageError(what, cause=obstacle, cure="leave prepared= out" if prepared else _SHMEM)
    assert room is not None
    tell(
        f"{size_name(whole)} of {memory} are more than {room.whose} leaves"
        f" ({room.left // MIB} MiB), and no page can be taken out again: {obstacle}"
        f" (cure: {cure})"
    )
    return Budget(memory, size, follows=True)


def _asked(policy: Policy, room: Room | None) -> int | None:
    if policy.resident_percent is not None and room is not None:
        return max(int(room.limit * policy.resident_percent / 100), LEAST_RESIDENT)
    return policy.resident_bytes


def _obstacle(memory: Memory, prepared: bool) -> str:
    """Why no page can be taken out of such memory; empty where it can."""
    if prepared:
        return "prepared memory has its bytes from nowhere else"
    if memory.type is MemoryType.SHMEM and memory.shared:
        return ""
    return _OBSTACLES[memory.type] if not memory.traits.shareable or memory.shared else _PRIVATE


_SHMEM = 'pass memory="shmem"'
_PRIVATE = "only its own process can take pages out of private memory, not its pager"
_OBSTACLES = {
    MemoryType.ANON: _PRIVATE,
    MemoryType.SHMEM: _PRIVATE,
    MemoryType.HUGETLB: "huge pages are reserved for the whole memory when it is mapped: one that"
    " was given back could be gone when it is needed again",
    MemoryType.GUEST_MEMFD: "guest_memfd cannot be protected against writes",
}


def spill_file(policy: Policy) -> int:
    """A file without a name in the folder of the policy; -1 where it has none.

    Raises UsageError for a folder where none can be made.
    """
    if policy.spill is None:
        return -1
    flags = os.O_RDWR | os.O_CLOEXEC
    try:
        try:
            return os.open(policy.spill, flags | os.O_TMPFILE, 0o600)
        except OSError as error:
            if error.errno not in (errno.EOPNOTSUPP, errno.EISDIR, errno.ENOENT):
                raise
        with calling("open"):
            fd, path = tempfile.mkstemp(prefix="userfault-spill-", dir=policy.spill)
        os.unlink(path)
        return fd
    except OSError as error:
        cause = os.strerror(error.errno or 0)
        what = f"policy spill={policy.spill!r}"
        raise UsageError(what, cause=cause, cure="name a folder that can be written") from None
