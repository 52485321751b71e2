"""The formats in which we talk to the agent; agent.c declares the same structs."""

from __future__ import annotations

import enum
import struct

import msgspec

from userfault.kernel.calls import SignalInfo

CONTROL = 0xFFFF  # the task number of the agent's control thread
BUFFER = 16 << 20  # bytes of a task's private buffer

REQUEST = struct.Struct("=IHHQ6QII")
REPLY = struct.Struct("=IHHqQiiII")
STATE = struct.Struct("=I60s")

_WORD = (1 << 64) - 1


class Op(enum.IntEnum):
    """What a request asks for.

    CHILD is never sent: its reply comes when the forked child `number` has called.
    """

    SYSCALL = 0
    READ = 1
    WRITE = 2
    FORK = 3
    TASK = 4
    STATES = 5
    FILE = 6
    BUFFER = 7
    SURVEY = 8
    CHILD = 9


class Kind(enum.IntEnum):
    """What the agent sends: answers, and one hello from each new task."""

    REPLY = 0
    HELLO = 1


class Step(msgspec.Struct, frozen=True):
    """One request.

    `payload` goes to the start of the private buffer; argument n of `buffered` is an offset into
    it; `answer` bytes of it come back.  `control`: for the control thread, which never blocks and
    has its own descriptors.
    """

    op: Op
    number: int = 0
    args: tuple[int, ...] = ()
    payload: bytes = b""
    buffered: tuple[int, ...] = ()
    answer: int = 0
    control: bool = False

    def encode(self, task: int) -> bytes:
        """The request, for this task."""
        padded = [value & _WORD for value in self.args] + [0] * (6 - len(self.args))
        relative = sum(1 << position for position in self.buffered)
        head = REQUEST.pack(
            len(self.payload),
            CONTROL if self.control else task,
            self.op,
            self.number & _WORD,
            *padded,
            relative,
            self.answer,
        )
        return head + self.payload


class Reply(msgspec.Struct, frozen=True):
    """An answer of the agent."""

    task: int
    kind: Kind
    value: int
    signal: SignalInfo | None
    data: bytes

    @property
    def errno(self) -> int:
        """The errno of a system call that failed, else 0."""
        return -self.value if -4096 < self.value < 0 else 0


def decode(head: tuple[int, ...], data: bytes) -> Reply:
    """The reply of an unpacked REPLY head and the bytes that followed it."""
    _, task, kind, value, address, signal, code, lsb, _ = head
    info = SignalInfo(signal, code, address, lsb) if signal else None
    return Reply(task, Kind(kind), value, info, data)


def states(data: bytes) -> list[str]:
    """For each task the kernel function in which it sleeps; empty while it is idle or runs."""
    found = []
    for busy, wchan in STATE.iter_unpack(data):
        name = wchan.split(b"\0", 1)[0].decode("ascii") if busy else ""
        found.append("" if name == "0" else name)
    return found
