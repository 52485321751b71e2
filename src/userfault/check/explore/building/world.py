"""What a scenario is built from: memory, userfaultfds, tasks, and what is looked at in the end."""

from __future__ import annotations

from collections.abc import Callable

from userfault.check.explore.building.caller import Body, Caller, shown
from userfault.check.explore.building.calls import Descriptor
from userfault.kernel.errors import UsageError
from userfault.kernel.memtypes import BASE_PAGE as PAGE
from userfault.kernel.modes import Feature, Mode
from userfault.model.faces.guest import Guest
from userfault.model.files.folio import Cgroup
from userfault.model.files.inode import Inode
from userfault.model.files.open_files import O_RDWR, ObjectFile
from userfault.model.machine import Machine
from userfault.model.memtypes.ops import MemoryOps
from userfault.model.mm import access, mmap
from userfault.model.mm.mmap import Behind
from userfault.model.process import Process, Processes
from userfault.model.profiles import Config, Profile
from userfault.model.tasks.sched import Task
from userfault.model.uffd import protect
from userfault.model.uffd.context import Context
from userfault.model.uffd.messages import UffdFile
from userfault.model.uffd.registration import register
from userfault.uapi import mman
from userfault.uapi import userfaultfd as abi

_NO_FEATURES = Feature(0)
CHILDREN = 16  # tasks that one task can make: a child's number follows from its parent's


class Area:
    """A mapping: `area[n]` is the address of its page n."""

    __slots__ = ("_file", "length", "process", "start", "step")

    def __init__(
        self, process: Process, start: int, length: int, step: int, file: Inode | None
    ) -> None:
        self.process = process
        self.start = start
        self.length = length
        self.step = step
        self._file = file

    @property
    def file(self) -> Inode:
        """What is mapped; private anonymous memory has none."""
        if self._file is None:
            raise UsageError("anonymous memory has no file")
        return self._file

    @property
    def end(self) -> int:
        return self.start + self.length

    def __getitem__(self, page: int) -> int:
        return self.start + page * self.step


class World:
    """One modelled kernel with the tasks of one scenario, built anew for each schedule."""

    def __init__(self, profile: Profile, config: Config, types: tuple[MemoryOps, ...] = ()) -> None:
        self.machine = Machine(profile, config, types=types)
        self.profile = profile
        self._processes = Processes(self.machine)
        self.process = self._processes.spawn()
        self.callers: dict[int, Caller] = {}
        self.numbers: dict[Task, int] = {}
        self._looks: list[tuple[str, Callable[[], object]]] = []
        self._checks: list[Callable[[], str | None]] = []
        self._closers: list[Callable[[], object]] = []

    # --- memory ----------------------------------------------------------------------------------

    def spawn(self, *, cgroup: Cgroup | None = None) -> Process:
        """One more process, with nothing mapped."""
        return self._processes.spawn(cgroup=cgroup)

    def file(self, kind: str = "shmem", pages: int = 1, *, shift: int = 12) -> Inode:
        """A file of a memory type: shmem, hugetlb, guest_memfd, file, or one from outside."""
        if kind == "hugetlb":
            shift = max(shift, 21)
            pool = self.machine.memory.pools[shift]
            pool.grow(pages)
        return self.machine.object(kind, pages << shift, shift=shift, traits=3)

    def map(
        self,
        kind: str = "anon",
        pages: int = 1,
        *,
        shared: bool | None = None,
        file: Inode | None = None,
        offset: int = 0,
        process: Process | None = None,
        prot: int = mman.PROT_READ | mman.PROT_WRITE,
    ) -> Area:
        """Map memory; types with files are shared unless told otherwise.

        `file`: map this one rather than a new file; `offset`: in pages.
        """
        process = process or self.process
        if file is None and kind != "anon" and self.machine.types[kind].fault_folio is not None:
            file = self.file(kind, pages)
        elif file is not None:
            self.machine.files.link(file)
        ops = self.machine.type_of(file) if file is not None else self.machine.types[kind]
        step = 1 << file.shift if file is not None else PAGE
        if shared is None:
            shared = file is not None
        flags = mman.MAP_SHARED if shared else mman.MAP_PRIVATE
        task = process.threads[0]
        behind = Behind(ops, file, offset * step)
        start = mmap.mmap(task, process.mm, 0, pages * step, prot, flags, behind)
        if file is not None:
            self.machine.files.unlink(file)  # the mapping holds it
        return Area(process, start, pages * step, step, file)

    def open(self, file: Inode, process: Process | None = None) -> Descriptor:
        """A descriptor of a file."""
        process = process or self.process
        self.machine.files.link(file)
        return Descriptor(process, process.install(ObjectFile(O_RDWR, file)))

    def uffd(
        self,
        *areas: Area,
        mode: Mode = Mode.MISSING,
        features: Feature = _NO_FEATURES,
        process: Process | None = None,
        flags: int = 0,
    ) -> Descriptor:
        """A userfaultfd with these areas registered; `flags`: O_NONBLOCK or nothing."""
        process = process or (areas[0].process if areas else self.process)
        context = Context(process.mm)
        context.flags = flags
        context.handshake(abi.UFFD_API, int(features), may_trace=True)
        context.initialize(int(features))
        fd = Descriptor(process, process.install(UffdFile(flags, context)))
        for area in areas:
            register(process.threads[0], context, area.start, area.length, int(mode))
        return fd

    def hand_over(self, descriptor: Descriptor, process: Process) -> Descriptor:
        """The same open file in another process, as by SCM_RIGHTS."""
        return Descriptor(process, process.install(descriptor.process.file(descriptor.fd)))

    def guest(self, area: Area, *, exit_on_missing: bool = False) -> Guest:
        """A virtual machine with one slot, whose host has it mapped at `area`."""
        return Guest(area.process.mm, area.file, area.start, exit_on_missing=exit_on_missing)

    def store(self, address: int, data: bytes, process: Process | None = None) -> None:
        """Write memory before the tasks begin (it must not have to wait)."""
        process = process or self.process
        access.store(process.threads[0], process.mm, address, data, user=True)

    def swap_out(self, file: Inode, index: int = 0) -> None:
        """A page of a file, which nobody has mapped, is in swap when the tasks begin."""
        self.machine.files.swap_out(file.cache[index])

    def protect(self, uffd: Descriptor, area: Area) -> None:
        """Write-protect it before the tasks begin."""
        protect.writeprotect(uffd.context, area.start, area.length, protect=True)

    def peek(self, address: int, length: int = 1, process: Process | None = None) -> bytes | None:
        """What a task would read without a fault, or None."""
        return access.load_now((process or self.process).mm, address, length)

    # --- tasks -----------------------------------------------------------------------------------

    def task(
        self, name: str, body: Body, *, process: Process | None = None, may_wait: bool = False
    ) -> Caller:
        """A task, whose result is what `body` returns.

        `may_wait`: it is no fault if it sleeps for ever in the end (a handler that waits for the
        next message).
        """
        return self._start(len(self.callers), name, body, process or self.process, may_wait)

    def _start(
        self, number: int, name: str, body: Body, process: Process, may_wait: bool
    ) -> Caller:
        caller = Caller(self._child, process.thread(), number, name, body, may_wait=may_wait)
        self.callers[number] = caller
        self.numbers[caller.task] = number
        caller.begin()
        return caller

    def heir(self, parent: Caller, name: str, body: Body) -> Caller:
        """A thread of the same process that a task starts while it runs."""
        parent.children += 1
        number = (parent.number + 1) * CHILDREN + parent.children
        return self._start(number, name, body, parent.task.process, parent.may_wait)

    def at_end(self, close: Callable[[], object]) -> None:
        """Call this when the world is dropped."""
        self._closers.append(close)

    def _child(self, parent: Caller, process: Process, body: Body) -> Caller:
        """The task of a process that fork(2) made."""
        parent.children += 1
        number = (parent.number + 1) * CHILDREN + parent.children
        name = f"{parent.name}'s child" + (f" {parent.children}" if parent.children > 1 else "")
        return self._start(number, name, body, process, parent.may_wait)

    # --- the end ---------------------------------------------------------------------------------

    def final(self, name: str, look: Callable[[], object]) -> None:
        """Look at something when all tasks have ended: it belongs to the outcome."""
        self._looks.append((name, look))

    def check(self, check: Callable[[], str | None]) -> None:
        """When all tasks have ended: say what is wrong, or return None."""
        self._checks.append(check)

    def outcome(self) -> tuple[tuple[str, str], ...]:
        """The results of the tasks, and what `final` looks at."""
        found = [(caller.name, caller.result) for _, caller in sorted(self.callers.items())]
        found += [(name, shown(look())) for name, look in self._looks]
        return tuple(found)

    def complaint(self) -> str | None:
        """What the scenario's own checks have against this end."""
        for check in self._checks:
            told = check()
            if told:
                return told
        return None

    def abandon(self) -> None:
        """End what still sleeps, so that the machine can be freed."""
        for caller in self.callers.values():
            caller.task.abandon()
        for close in self._closers:
            close()
