"""A process: an address space, descriptors, tasks, rights."""

from __future__ import annotations

import contextlib
import errno
from collections import deque
from collections.abc import Iterator

from userfault.kernel.calls import CAP_IPC_LOCK, CAP_SYS_ADMIN, CAP_SYS_PTRACE, WAITS_CHILD
from userfault.model.errors import Errno, Killed
from userfault.model.files.folio import Cgroup
from userfault.model.files.open_files import O_CLOEXEC, OpenFile
from userfault.model.machine import Machine
from userfault.model.mm import fork as forking
from userfault.model.mm import lifetime
from userfault.model.mm.address_space import AddressSpace
from userfault.model.tasks.recorder import RECORD
from userfault.model.tasks.sched import Task, Wait

ALL_RIGHTS = frozenset({CAP_SYS_PTRACE, CAP_IPC_LOCK, CAP_SYS_ADMIN})


class Processes:
    """Every process and task of a machine, numbered as they come."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.by_pid: dict[int, Process] = {}
        self._next = 100

    def number(self) -> int:
        if RECORD.on:
            RECORD.writes.add(("pids",))
        self._next += 1
        return self._next

    def spawn(self, *, cgroup: Cgroup | None = None) -> Process:
        """A fresh process with one task."""
        group = cgroup or Cgroup()
        return Process(self, AddressSpace(self.machine.spaces, group), {})


class Thread(Task):
    """A task of a process."""

    __slots__ = ("process",)

    def __init__(self, process: Process, name: str, tid: int) -> None:
        super().__init__(process.machine.sched, name, tid)
        self.process = process


class Process:
    """One process."""

    def __init__(
        self,
        processes: Processes,
        mm: AddressSpace,
        fds: dict[int, tuple[OpenFile, bool]],
        parent: Process | None = None,
    ) -> None:
        self.processes = processes
        self.machine = processes.machine
        self.pid = processes.number()
        self.mm = mm
        self.fds = fds
        self.parent = parent
        self.alive = True
        self.status = 0
        self.threads: list[Thread] = []
        self.rights: dict[Task, frozenset[int]] = {}
        self._waiting: deque[Task] = deque()
        self.reaped = False
        self._caller: Thread | None = None
        processes.by_pid[self.pid] = self
        self.thread(self.pid)

    def thread(self, tid: int | None = None) -> Thread:
        """A new thread."""
        number = tid if tid is not None else self.processes.number()
        task = Thread(self, f"{self.pid}.{len(self.threads)}", number)
        self.threads.append(task)
        self.rights[task] = self.rights[self.threads[0]] if self.threads[1:] else ALL_RIGHTS
        return task

    def caller(self) -> Thread:
        """The thread that makes the calls which come from outside of every task."""
        if self._caller is None:
            self._caller = self.thread()
        return self._caller

    def may(self, task: Task, right: int) -> bool:
        """Whether this task has a capability."""
        return right in self.rights.get(task, ALL_RIGHTS)

    # --- descriptors -----------------------------------------------------------------------------

    def install(self, file: OpenFile, *, cloexec: bool = False) -> int:
        """The lowest free descriptor now refers to `file`."""
        if RECORD.on:
            RECORD.writes.add(("descriptors", self.pid))
        fd = 0
        while fd in self.fds:
            fd += 1
        file.links += 1
        self.fds[fd] = (file, cloexec)
        return fd

    def open(self, file: OpenFile, flags: int) -> int:
        return self.install(file, cloexec=bool(flags & O_CLOEXEC))

    def file(self, fd: int) -> OpenFile:
        if RECORD.on:
            RECORD.reads.add(("descriptors", self.pid))
        found = self.fds.get(fd)
        if found is None:
            raise Errno(errno.EBADF)
        return found[0]

    @contextlib.contextmanager
    def using(self, file: OpenFile) -> Iterator[None]:
        """A call that sleeps keeps its file open, whoever closes the descriptor (fdget)."""
        file.record(RECORD.adds)
        file.links += 1
        try:
            yield
        finally:
            self._drop(file)

    def close(self, fd: int) -> None:
        if RECORD.on:
            RECORD.writes.add(("descriptors", self.pid))
        found = self.fds.pop(fd, None)
        if found is None:
            raise Errno(errno.EBADF)
        self._drop(found[0])

    def _drop(self, file: OpenFile) -> None:
        file.record(RECORD.writes)
        file.links -= 1
        if not file.links:
            file.release(self.machine.files)

    # --- fork and exit ---------------------------------------------------------------------------

    def fork(self, task: Task) -> Process:
        """fork(2): the child; FORK events are sent (and read) before this returns."""
        mm, forks = forking.fork_space(self.mm, self.mm.cgroup)
        # The child has its descriptors before the event is read: closing the parent's copy of a
        # userfaultfd does not release it.
        if RECORD.on:
            RECORD.reads.add(("descriptors", self.pid))
        fds = dict(self.fds)
        for file, _ in fds.values():
            file.record(RECORD.adds)
            file.links += 1
        child = Process(self.processes, mm, fds, self)
        child.rights[child.threads[0]] = self.rights[task]
        try:
            self.mm.userfaultfd.dup_complete(task, forks)
        except Killed:
            child.exit(9)
            raise
        return child

    def exit(self, status: int) -> None:
        """The end: tasks that sleep in the kernel leave it, memory and descriptors go."""
        if RECORD.on:
            RECORD.writes.add(("process", self.pid))
        if not self.alive:
            return
        self.alive = False
        self.status = status
        current = self.machine.sched.current
        for task in self.threads:
            if task is current:
                task.killed = True
                continue
            busy = not task.idle
            task.kill()
            if busy:  # it uses the memory until it has left the kernel
                self.mm.users += 1
                task.submit(lambda: lifetime.put(self.mm))
        lifetime.put(self.mm, owner=True)
        for fd in sorted(self.fds):
            self.close(fd)
        if self.parent is not None:
            waiting = self.parent._waiting
            if RECORD.on:
                RECORD.writes.add(("children", self.parent.pid))
            while waiting:
                self.machine.sched.wake(waiting.popleft())

    def wait(self, task: Task, pid: int) -> int:
        """wait4(2) for one child: its status word."""
        if RECORD.on:
            RECORD.writes.add(("children", self.pid))
        child = self.processes.by_pid.get(pid)
        if child is None or child.parent is not self or child.reaped:
            raise Errno(errno.ECHILD)
        while child.alive:
            self._waiting.append(task)
            task.sched.block(
                Wait(
                    WAITS_CHILD,
                    lambda: f"the end of process {pid}",
                    interruptible=True,
                    give_up=lambda: self._waiting.remove(task),
                )
            )
            if task.interrupted and child.alive:
                raise Errno(errno.EINTR)
        child.reaped = True
        return child.status
