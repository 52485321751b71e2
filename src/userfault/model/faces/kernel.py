"""The model behind the typed protocol (`userfault.kernel.protocol.Kernel`).

What a pager, a client or a test wrote for the live kernel runs on it.  The model's own abilities
are beside the protocol: `check()`, `machine` (profile, scheduler, trace), processes that fork,
and memory types of one's own (`map_type`).
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterable

from userfault.kernel.errors import KernelError, MemoryUnavailable, UsageError
from userfault.kernel.memtypes import Memory, round_up, size_name
from userfault.kernel.modes import Feature
from userfault.kernel.protocol import Backing, Outcome, State
from userfault.model import invariants
from userfault.model.errors import Deadlock, Errno, Killed, Signalled
from userfault.model.faces.handle import ModelUserfaultfd
from userfault.model.files import filesystem
from userfault.model.files.folio import Cgroup
from userfault.model.files.inode import Inode
from userfault.model.machine import Machine
from userfault.model.memtypes.ops import MemoryOps
from userfault.model.mm import access, madvise, mmap, mremap, softdirty
from userfault.model.mm.mmap import Behind
from userfault.model.process import Process, Processes, Thread
from userfault.model.profiles import NEXT, Config, Profile
from userfault.model.tasks.sched import Operation, Scheduler
from userfault.uapi import mman

_NO_FEATURES = Feature(0)
_ALL_TRAITS = 3  # of a guest_memfd: MMAP and INIT_SHARED


class ModelBacking:
    """The object behind a mapping."""

    def __init__(self, process: Process, target: Inode) -> None:
        self._process = process
        self.object = target

    @property
    def length(self) -> int:
        return self.object.size

    def read(self, offset: int, length: int) -> bytes:
        """Its bytes; what is not there reads as zeros."""
        return filesystem.read(self.object, offset, length)

    def write(self, offset: int, data: bytes) -> None:
        self._do("pwrite", lambda: self._write(offset, data))

    def _write(self, offset: int, data: bytes) -> None:
        filesystem.write_through(self._process.machine.files, self.object, offset, data)

    def punch_hole(self, offset: int, length: int) -> None:
        mode = mman.FALLOC_FL_PUNCH_HOLE | mman.FALLOC_FL_KEEP_SIZE
        files = self._process.machine.files
        self._do(
            "fallocate", lambda: filesystem.fallocate(files, self.object, mode, offset, length)
        )

    def truncate(self, length: int) -> None:
        if not self.object.kind.can_resize:
            raise KernelError.of("ftruncate", errno.EINVAL)
        self._do(
            "ftruncate",
            lambda: filesystem.truncate(self._process.machine.files, self.object, length),
        )

    def _do(self, name: str, run: Callable[[], None]) -> None:
        try:
            self._process.caller().call(run)
        except Errno as refusal:
            raise KernelError.of(name, refusal.code) from None


class ModelMapping:
    """A mapping of one process."""

    def __init__(
        self,
        process: Process,
        memory: Memory | None,
        address: int,
        length: int,
        backing: ModelBacking | None,
    ) -> None:
        self._process = process
        self._memory = memory
        self.address = address
        self.length = length
        self.backing = backing
        self._mapped = True

    @property
    def memory(self) -> Memory:
        if self._memory is None:
            raise UsageError("this mapping is of a type from outside: it has no Memory")
        return self._memory

    def close(self) -> None:
        """Unmap what is left of it, and drop the object."""
        if not self._mapped:
            return
        self._mapped = False
        caller = self._process.caller()
        caller.call(lambda: mmap.munmap(caller, self._process.mm, self.address, self.length))
        if self.backing is not None:
            self._process.machine.files.unlink(self.backing.object)


class ModelPending:
    """An operation of a task."""

    __slots__ = ("_operation", "_outcome")

    def __init__(self, operation: Operation | None, outcome: Outcome | None = None) -> None:
        self._operation = operation
        self._outcome = outcome

    @property
    def state(self) -> State:
        return State.DONE if self._operation is None else self._operation.state

    @property
    def waits_for(self) -> str:
        return "" if self._operation is None else self._operation.waits_for

    def result(self, timeout_s: float = 0.0) -> Outcome:
        """The outcome; runs the machine, and raises TimeoutError where that does not bring it."""
        del timeout_s
        if self._outcome is None and self._operation is not None:
            try:
                self._outcome = self._operation.get()
            except Deadlock as stuck:
                raise TimeoutError(str(stuck)) from stuck
            except Killed:
                self._outcome = Outcome(errno=errno.ESRCH)
        assert self._outcome is not None
        return self._outcome


class ModelTask:
    """A thread."""

    def __init__(self, process: ModelProcess, task: Thread) -> None:
        self._process = process
        self.task = task
        self._mm = process.process.mm
        self._sched = task.sched

    def _quick(self) -> bool:
        """Whether a touch that does not fault may be done at once."""
        sched = self._sched
        return self.task.idle and not sched.preemptive and sched.current is None

    def read(self, address: int, length: int) -> ModelPending:
        if self._quick():
            data = access.load_now(self._mm, address, length)
            if data is not None:
                return ModelPending(None, Outcome(data))
        parts: list[bytes] = []

        def run() -> Outcome:
            access.load(self.task, self._mm, address, length, parts, user=True)
            return Outcome(data=b"".join(parts))

        return self._submit(run)

    def write(self, address: int, data: bytes) -> ModelPending:
        if self._quick() and access.store_now(self._mm, address, data):
            return ModelPending(None, _DONE)

        def run() -> Outcome:
            access.store(self.task, self._mm, address, data, user=True)
            return _DONE

        return self._submit(run)

    def madvise(self, address: int, length: int, advice: int) -> ModelPending:
        return self._none(lambda: madvise.madvise(self.task, self._mm, address, length, advice))

    def munmap(self, address: int, length: int) -> ModelPending:
        return self._none(lambda: mmap.munmap(self.task, self._mm, address, length))

    def mprotect(self, address: int, length: int, protection: int) -> ModelPending:
        return self._none(lambda: mmap.mprotect(self._mm, address, length, protection))

    def mremap(
        self, address: int, old_length: int, new_length: int, flags: int, new_address: int = 0
    ) -> ModelPending:
        def run() -> Outcome:
            return Outcome(
                value=mremap.mremap(
                    self.task, self._mm, address, old_length, new_length, flags, new_address
                )
            )

        return self._submit(run)

    def fork(self) -> ModelPending:
        """fork(2): the value is the child's pid (`ModelKernel.by_pid`)."""
        return self._submit(lambda: Outcome(value=self.task.process.fork(self.task).pid))

    def call(self, run: Callable[[], None]) -> ModelPending:
        """Run any program in this task: it may use every object of the model."""
        return self._none(run)

    def signal(self) -> None:
        """A signal with a handler arrives."""
        self.task.signal(10)

    def _none(self, run: Callable[[], None]) -> ModelPending:
        def quiet() -> Outcome:
            run()
            return _DONE

        return self._submit(quiet)

    def _submit(self, run: Callable[[], Outcome]) -> ModelPending:
        def outcome() -> Outcome:
            try:
                return run()
            except Errno as refusal:
                return Outcome(errno=refusal.code)
            except Signalled as signalled:
                return Outcome(signal=signalled.number)

        return ModelPending(self.task.submit(outcome))


_DONE = Outcome()


class ModelProcess:
    """An address space with its tasks and descriptors."""

    def __init__(self, process: Process) -> None:
        self.process = process

    @property
    def pid(self) -> int:
        return self.process.pid

    def map(
        self,
        memory: Memory,
        length: int,
        *,
        backing: Backing | None = None,
        offset: int = 0,
        writable: bool = True,
        grow_pool: bool = False,
    ) -> ModelMapping:
        """Map fresh memory, or with `backing` an alias; raises MemoryUnavailable."""
        machine = self.process.machine
        if length <= 0:
            raise UsageError(f"cannot map {length} bytes", cause="memory has at least one page")
        length = round_up(length, memory.page_size)
        shift = memory.page_size.bit_length() - 1
        if grow_pool and shift in machine.memory.pools:
            pool = machine.memory.pools[shift]
            pool.grow(max(length // memory.page_size - (pool.free - pool.reserved), 0))
        try:
            made = self._map(
                memory.type.value, length, memory.shared, shift, backing, offset, writable
            )
        except Errno as refusal:
            raise MemoryUnavailable(
                f"cannot make {size_name(length)} of {memory}", cause=str(refusal)
            ) from None
        address, behind = made
        return ModelMapping(self.process, memory, address, length, behind)

    def map_type(
        self, kind: str, length: int, *, shared: bool = True, backing: Backing | None = None
    ) -> ModelMapping:
        """Map memory of any registered type, by its name."""
        address, behind = self._map(kind, length, shared, 12, backing, 0, True)
        return ModelMapping(self.process, None, address, length, behind)

    def _map(
        self,
        kind: str,
        length: int,
        shared: bool,
        shift: int,
        backing: Backing | None,
        offset: int,
        writable: bool,
    ) -> tuple[int, ModelBacking | None]:
        process = self.process
        machine = process.machine
        ops = machine.types[kind]
        target: Inode | None = None
        if isinstance(backing, ModelBacking):
            target = backing.object
            machine.files.link(target)
        elif backing is not None:
            raise UsageError(f"cannot map {type(backing).__name__} on the model")
        elif ops.fault_folio is not None:
            target = machine.object(kind, length, shift=shift, traits=_ALL_TRAITS)
        prot = mman.PROT_READ | (mman.PROT_WRITE if writable else 0)
        flags = mman.MAP_SHARED if shared else mman.MAP_PRIVATE
        behind = Behind(ops, target, offset)
        try:
            # In a place that is free: no event, so that no task is needed to wait for one.
            address = mmap.mmap(process.caller(), process.mm, 0, length, prot, flags, behind)
        except BaseException:
            if target is not None:
                machine.files.unlink(target)
            raise
        return address, ModelBacking(process, target) if target is not None else None

    def userfaultfd(
        self, features: Feature = _NO_FEATURES, *, user_mode_only: bool | None = None
    ) -> ModelUserfaultfd:
        """A new userfaultfd with exactly these features."""
        return ModelUserfaultfd.open(self.process, features, user_mode_only=bool(user_mode_only))

    def task(self) -> ModelTask:
        """A new thread."""
        return ModelTask(self, self.process.thread())

    def clear_soft_dirty(self) -> None:
        """Write 4 to /proc/PID/clear_refs."""
        self.process.caller().call(lambda: softdirty.clear(self.process.mm))

    def exit(self) -> None:
        """The process ends."""
        self.process.caller().call(lambda: self.process.exit(0))


class ModelKernel:
    """A modelled kernel."""

    def __init__(
        self,
        profile: Profile = NEXT,
        config: Config | None = None,
        *,
        scheduler: Scheduler | None = None,
        trace: bool = False,
        types: Iterable[MemoryOps] = (),
    ) -> None:
        self.machine = Machine(profile, config, scheduler=scheduler, trace=trace, types=types)
        self._processes = Processes(self.machine)

    @property
    def name(self) -> str:
        return f"model {self.machine.profile.name}"

    def process(self, *, cgroup: Cgroup | None = None) -> ModelProcess:
        """A fresh process."""
        return ModelProcess(self._processes.spawn(cgroup=cgroup))

    def by_pid(self, pid: int) -> ModelProcess:
        """A process that fork made."""
        return ModelProcess(self._processes.by_pid[pid])

    def settle(self, timeout_s: float = 0.0) -> None:
        """Let tasks run until none can; raises Deadlock if one waits for a lock then."""
        del timeout_s
        self.machine.sched.run()

    def check(self) -> None:
        """Walk every invariant; raises InvariantBroken."""
        invariants.check(self.machine.spaces)
