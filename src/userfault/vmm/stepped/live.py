"""The running kernel as host: CPUs of KVM, each in a task of this process."""

from __future__ import annotations

import contextlib
import errno
import mmap

from userfault.kernel.memtypes import Memory, MemoryType
from userfault.kernel.protocol import Outcome
from userfault.linux import guest_memfd, libc
from userfault.linux.kvm import VirtualCpu, Vm
from userfault.linux.memory import FileBacking, Recipe
from userfault.linux.process import LiveKernel, LiveMapping, LivePending, LiveProcess, LiveTask
from userfault.uapi import kvm as abi
from userfault.uapi import mman
from userfault.vmm import layout, program
from userfault.vmm.program import Walk
from userfault.vmm.stepped.host import Stop


class LiveCpu:
    """See `host.HostCpu`."""

    def __init__(self, kvm: VirtualCpu, task: LiveTask) -> None:
        self.kvm = kvm
        self.task = task
        self.stop: Stop | None = None

    @property
    def thread_id(self) -> int:
        return self.task.thread_id

    def go(self) -> LivePending:
        self.stop = None
        return self.task.call(self._run)

    def _run(self) -> Outcome:
        while self.stop is None:
            try:
                ended = self.kvm.run()
            except OSError as error:
                if error.errno != errno.EINTR:
                    self.stop = Stop(failure=errno.errorcode[error.errno or 0])
                continue
            if ended.reason == abi.KVM_EXIT_IO and ended.port == program.PORT:
                self.kvm.complete()
                self.stop = Stop(checksum=self.kvm.registers()["rax"])
            else:
                self.stop = Stop(failure=f"exit {ended.reason}")
        return Outcome()


class LiveHost:
    """See `host.Host`.  Raises MemoryUnavailable without KVM."""

    exits_on_missing = False  # no released kernel (checked up to 7.3.4)

    def __init__(self) -> None:
        self.kernel = LiveKernel()
        self.process: LiveProcess = self.kernel.process()
        self._vm = Vm()
        self._undo = contextlib.ExitStack()
        self._undo.callback(self._vm.close)
        self._length = 0

    def map(self, memory: Memory, length: int) -> LiveMapping:
        made = self._mapped(memory, length)
        self._undo.callback(made.close)
        system = mmap.mmap(-1, len(layout.system_slot(program.CODE, made.length)))
        self._undo.callback(system.close)
        system[:] = layout.system_slot(program.CODE, made.length)
        where = self._undo.enter_context(libc.Pinned(system)).address
        self._vm.set_memory(0, 0, len(system), where)
        fd = made.backing.fileno() if made.backing and _is_guests(memory) else -1
        self._vm.set_memory(1, layout.MEMORY, made.length, made.address, fd)
        return made

    def cpu(self, number: int, walk: Walk, *, user: bool) -> LiveCpu:
        kvm = self._vm.cpu(number)
        self._undo.callback(kvm.close)
        kvm.set_system_registers(layout.system_registers(kvm.system_registers(), user=user))
        begin = layout.start(program.WALK, walk.registers(layout.MEMORY), user=user)
        kvm.set_registers(begin)
        task = self.process.task()
        self._undo.callback(task.close)
        return LiveCpu(kvm, task)

    def close(self) -> None:
        self._undo.close()

    def _mapped(self, memory: Memory, length: int) -> LiveMapping:
        if not _is_guests(memory):
            return self.process.map(memory, length, grow_pool=True)
        backing = FileBacking(guest_memfd.create(length, self._vm), length)
        access = mman.PROT_READ | mman.PROT_WRITE
        recipe = Recipe(memory, length, mman.MAP_SHARED, backing)
        return LiveMapping(recipe, libc.mmap(0, length, access, recipe.flags, recipe.fd, 0))


def _is_guests(memory: Memory) -> bool:
    return memory.type is MemoryType.GUEST_MEMFD
