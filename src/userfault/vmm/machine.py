"""A machine: slots of memory of any type, CPUs, programs; it can be paused, and its state taken."""

from __future__ import annotations

import contextlib
import errno
import mmap
import os
import threading
import time
from collections.abc import Iterator, Sequence
from typing import Any

from userfault.api.memory import LazyMemory
from userfault.kernel.errors import Unavailable, UsageError
from userfault.kernel.memtypes import BASE_PAGE as PAGE
from userfault.kernel.memtypes import round_up, size_name
from userfault.kernel.numbers import whole
from userfault.linux.kvm import Vm
from userfault.linux.libc import Pinned
from userfault.vmm import guest_memfd, layout, program
from userfault.vmm.cpu import Cpu
from userfault.vmm.guest_memfd import GuestMemfd, GuestMemory
from userfault.vmm.program import Walk
from userfault.vmm.state import MOST_CPUS, CpuState, MachineState, decode, encode

_PAUSE_S = 30.0


class Machine:
    """A KVM machine whose memory is `memories`, one slot each, one behind the other.

    A memory is anything that keeps whole pages in one piece: what `lazy(..., writable=True)`
    returns, a `mmap.mmap` of any kind, or `GuestMemfd(length)`, which the machine makes (`memories`
    has its mapping).  `cpus`: how many, paused and idle at first.  `user`: guest programs run in
    user mode (CPL 3), else in kernel mode.  The machine keeps its memories in place: close it
    before them.  Not for several threads at once, but `pause()` and `resume()`, which any may call.

    Raises MemoryUnavailable without KVM, with the cure; Unavailable for what KVM refuses;
    UsageError for memory that cannot be a slot.

    >>> memory = mmap.mmap(-1, 16 * 4096)
    >>> with Machine([memory]) as machine:  # doctest: +SKIP
    ...     machine.run([Walk(16, write=True)])
    [0]
    """

    def __init__(
        self,
        memories: Sequence[Any],
        *,
        cpus: int = 1,
        user: bool = True,
        code: bytes = program.CODE,
    ) -> None:
        if not memories or not 1 <= whole("cpus", cpus) <= MOST_CPUS:
            raise UsageError(
                f"a machine with {len(memories)} memories and {cpus} CPUs",
                cure=f"give it at least one memory, and 1 to {MOST_CPUS} CPUs",
            )
        self._code = code
        self._changed = threading.Condition()
        with contextlib.ExitStack() as undo:
            self._vm = Vm()
            undo.callback(self._vm.close)
            self.memories = [self._made(each, undo) for each in memories]
            self._pins = [undo.enter_context(_pinned(memory)) for memory in self.memories]
            self.lengths = tuple(round_up(pin.length, PAGE) for pin in self._pins)
            if sum(self.lengths) > layout.MOST_MEMORY:
                raise UsageError(
                    f"{size_name(sum(self.lengths))} of guest memory",
                    cure=f"give it at most {size_name(layout.MOST_MEMORY)}",
                )
            self._system = mmap.mmap(-1, len(layout.system_slot(code, sum(self.lengths))))
            undo.callback(self._system.close)
            self._set_slots(undo)
            self.cpus: list[Cpu] = []
            for number in range(cpus):
                kvm = self._vm.cpu(number)
                try:
                    cpu = Cpu(number, kvm, self._changed, user=user)
                except BaseException:
                    kvm.close()
                    raise
                undo.callback(cpu.close)
                self.cpus.append(cpu)
            self._undo = undo.pop_all()
        self._closed = False

    @property
    def code(self) -> bytes:
        """The guest's programs."""
        return self._code

    @property
    def length(self) -> int:
        """Bytes of all memories."""
        return sum(self.lengths)

    @property
    def pages(self) -> int:
        """Pages of 4 KiB of all memories."""
        return self.length // PAGE

    def start(self, walks: Sequence[Walk]) -> None:
        """Give each of the first CPUs a walk; they run from `resume()` on."""
        if len(walks) > len(self.cpus):
            raise UsageError(
                f"{len(walks)} walks for {len(self.cpus)} CPUs", cure="have as many CPUs as walks"
            )
        for cpu, walk in zip(self.cpus, walks, strict=False):
            cpu.begin(walk.registers(layout.MEMORY), program.WALK)

    def crash(self, cpu: int = 0) -> None:
        """Have a CPU run into a triple fault, from `resume()` on."""
        self.cpus[cpu].begin({}, program.CRASH)

    def run(self, walks: Sequence[Walk], timeout: float | None = None) -> list[int]:
        """`start`, `resume`, `wait` and `pause`: the checksums."""
        self.start(walks)
        self.resume()
        try:
            return self.wait(timeout)[: len(walks)]
        finally:
            self.pause()

    def wait(self, timeout: float | None = None) -> list[int]:
        """Wait for the programs of all CPUs: what each has summed up.

        The machine is paused then.  Raises GuestError at once where a CPU stops for good,
        TimeoutError after `timeout` seconds (the machine runs on).
        """
        with self._changed:
            if not self._changed.wait_for(self._ended, timeout):
                late = next(cpu.number for cpu in self.cpus if cpu.busy)
                raise TimeoutError(f"CPU {late} is at work after {timeout} s")
        self.pause()
        for cpu in self.cpus:
            if cpu.failure is not None:
                raise cpu.failure
        return [cpu.kvm.registers()["rax"] for cpu in self.cpus]

    def resume(self) -> None:
        """Let all CPUs run, those that have something to do."""
        for cpu in self.cpus:
            cpu.resume()

    def pause(self, timeout: float = _PAUSE_S) -> None:
        """Have all CPUs stand still.  Raises TimeoutError where one waits for a page for longer."""
        deadline = time.monotonic() + timeout
        for cpu in self.cpus:
            cpu.ask_to_pause()
        late = [cpu.number for cpu in self.cpus if not cpu.wait_paused(deadline)]
        if late:
            raise TimeoutError(
                f"CPU {late[0]} does not stand still after {timeout} s: it waits for a page"
            )

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Stand still for a block, and then do as before."""
        running = [cpu for cpu in self.cpus if cpu.running]
        self.pause()
        try:
            yield
        finally:
            for cpu in running:
                cpu.resume()

    def state(self) -> bytes:
        """What it is beside its memory; it is paused."""
        cpus = tuple(CpuState(*cpu.state()) for cpu in self.cpus)
        return encode(MachineState(self._code, self.lengths, cpus))

    def set_state(self, data: bytes) -> None:
        """Go on, from `resume()`, where another machine was; this one is paused.

        Raises FormatError for bytes that are none, UsageError where this machine has less memory,
        other code or fewer CPUs, Unavailable where KVM refuses the registers.
        """
        self.set_state_of(decode(data))

    def set_state_of(self, state: MachineState) -> None:
        """The same, decoded."""
        if state.length > self.length or len(state.cpus) > len(self.cpus):
            raise UsageError(
                f"a machine of {size_name(self.length)} and {len(self.cpus)} CPUs",
                cause=f"the saved one has {size_name(state.length)} and {len(state.cpus)} CPUs",
                cure="give it as much, or more",
            )
        for cpu, saved in zip(self.cpus, state.cpus, strict=False):
            cpu.set_state(saved.busy, saved.kept)
        self._put_system(state.code)

    def close(self) -> None:
        """Pause it and let go of everything but the memories.  Idempotent."""
        if not self._closed:
            self.pause()
            self._closed = True
            self._undo.close()

    def __enter__(self) -> Machine:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _ended(self) -> bool:
        """Whether all programs have, or one of them goes on no more."""
        failed = any(cpu.failure is not None for cpu in self.cpus)
        return failed or not any(cpu.busy for cpu in self.cpus)

    def _made(self, memory: Any, undo: contextlib.ExitStack) -> Any:
        if not isinstance(memory, GuestMemfd):
            return memory
        made = guest_memfd.make(memory, self._vm)
        undo.callback(os.close, made.fd)
        undo.callback(made.close)
        return made

    def _put_system(self, code: bytes) -> None:
        self._code = code
        self._system[:] = layout.system_slot(code, self.length)

    def _set_slots(self, undo: contextlib.ExitStack) -> None:
        self._put_system(self._code)
        pin = undo.enter_context(Pinned(self._system))
        self._set_slot(0, 0, len(self._system), pin.address)
        at = layout.MEMORY
        places = zip(self.memories, self._pins, self.lengths, strict=True)
        for slot, (memory, pin, length) in enumerate(places, 1):
            fd = memory.fd if isinstance(memory, GuestMemory) else -1
            self._set_slot(slot, at, length, pin.address, fd)
            at += length

    def _set_slot(self, slot: int, at: int, length: int, address: int, fd: int = -1) -> None:
        try:
            self._vm.set_memory(slot, at, length, address, fd)
        except OSError as error:
            told = errno.errorcode.get(error.errno or 0, str(error.errno))
            raise Unavailable(
                f"slot {slot}: {size_name(length)} at {address:#x}",
                cause=f"KVM_SET_USER_MEMORY_REGION: {told}",
                cure="give whole pages of memory, and fewer memories",
            ) from error


def _pinned(memory: Any) -> contextlib.AbstractContextManager[Pinned]:
    """Keep it in place; UsageError for what cannot be memory of a guest."""
    if isinstance(memory, LazyMemory) and memory.user_mode_only:
        raise UsageError(
            "lazy memory for a guest",
            cause="its faults are served in user mode only, and those of a guest are the kernel's",
            cure="give this user full userfaultfd rights (docs/privileges.md)",
        )
    try:
        pinned = Pinned(memory)
    except (TypeError, BufferError, ValueError) as error:
        raise UsageError(
            f"{type(memory).__name__} as memory of a guest", cause=str(error), cure="give a mmap"
        ) from None
    if pinned.address % PAGE or not pinned.length:
        pinned.release()
        raise UsageError(
            f"{type(memory).__name__} as memory of a guest",
            cause="it has no page, or does not begin with one",
            cure="give a mmap, which does",
        )
    return pinned
