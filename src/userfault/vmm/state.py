"""What a machine is beside its memory, as bytes: to be stored, or sent to another host.

A magic, and a msgpack map: the version, the guest's code, the lengths of its memories, and of each
CPU whether it is at work, and its registers as KVM has them.  Whoever decodes is told FormatError
for anything that is no such state.  MSRs beside those in the system registers are not in it: the
guest programs use none.
"""

from __future__ import annotations

import msgspec

from userfault.kernel.memtypes import BASE_PAGE as PAGE
from userfault.linux.kvm import KEPT_SIZES
from userfault.snapshot.errors import FormatError
from userfault.vmm import layout

MAGIC = b"userfault machine\n"
VERSION = 1
MOST_CPUS = 64
_MOST_BYTES = 1 << 20


class CpuState(msgspec.Struct, frozen=True):
    """One CPU: whether its program has not ended, and its registers."""

    busy: bool
    kept: dict[str, bytes]


class MachineState(msgspec.Struct, frozen=True):
    """A machine: its code, the bytes of each of its memories, its CPUs."""

    code: bytes
    lengths: tuple[int, ...]
    cpus: tuple[CpuState, ...]
    version: int = VERSION

    @property
    def length(self) -> int:
        """Of all memories together."""
        return sum(self.lengths)


def encode(state: MachineState) -> bytes:
    """The bytes."""
    return MAGIC + msgspec.msgpack.encode(state)


def decode(data: bytes) -> MachineState:
    """The state in these bytes, checked throughout; raises FormatError."""
    if not data.startswith(MAGIC) or len(data) > _MOST_BYTES:
        raise _damaged("it does not begin as one")
    try:
        state = msgspec.msgpack.decode(memoryview(data)[len(MAGIC) :], type=MachineState)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise _damaged(str(error)) from None
    if state.version != VERSION:
        raise FormatError(
            f"a machine's state of version {state.version}",
            cause=f"this release reads version {VERSION}",
            cure="restore it with the release that saved it",
        )
    if not 0 < len(state.code) <= PAGE or not 0 < len(state.cpus) <= MOST_CPUS:
        raise _damaged("no code or no CPU, or too much of them")
    if not state.lengths or any(part <= 0 or part % PAGE for part in state.lengths):
        raise _damaged("memories that are no whole pages")
    if state.length > layout.MOST_MEMORY:
        raise _damaged("more memory than a machine can have")
    for cpu in state.cpus:
        if {name: len(kept) for name, kept in cpu.kept.items()} != KEPT_SIZES:
            raise _damaged("registers of other sizes than KVM's")
    return state


def _damaged(cause: str) -> FormatError:
    return FormatError("no state of a machine", cause=cause, cure="save the machine anew")
