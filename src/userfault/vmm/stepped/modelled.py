"""The model as host: a guest whose CPU is interpreted, and whose touches go the ways of KVM.

In user mode a touch is a stage-2 fault: of a guest_memfd it goes to the file, and exits where
nothing is; of other memory KVM faults the page in by its host address.  In kernel mode KVM emulates
the instruction, and reads and writes by the host address itself (measured on 6.18, PVM; elsewhere
it does so for what it has to emulate).
"""

from __future__ import annotations

from userfault.kernel.memtypes import Memory, MemoryType
from userfault.model.errors import Errno
from userfault.model.faces.guest import Guest, MissingExit
from userfault.model.faces.kernel import ModelKernel, ModelMapping, ModelPending, ModelTask
from userfault.model.mm import access
from userfault.model.profiles import NEXT, Profile
from userfault.vmm import layout, program
from userfault.vmm.program import Walk
from userfault.vmm.stepped.host import Stop
from userfault.vmm.stepped.interpreter import Interpreter, UndefinedInstructionError

_BYTES = 8


class ModelCpu:
    """See `host.HostCpu`.  `guest`: where stage-2 faults go to; None: to the host's address."""

    def __init__(
        self, task: ModelTask, slot: ModelMapping, guest: Guest | None, registers: dict[str, int]
    ) -> None:
        self.stop: Stop | None = None
        self._task = task
        self._slot = slot
        self._guest = guest
        self._cpu = Interpreter(program.CODE, registers, self._load, self._store)

    @property
    def thread_id(self) -> int:
        return self._task.task.tid

    def go(self) -> ModelPending:
        self.stop = None
        return self._task.call(self._run)

    def _run(self) -> None:
        try:
            port = self._cpu.run()
        except MissingExit as nothing:
            self.stop = Stop(missing=nothing.guest_address)
        except UndefinedInstructionError as error:
            self.stop = Stop(failure=str(error))
        except Errno as error:
            self.stop = Stop(failure=str(error))
        else:
            assert port == program.PORT
            self.stop = Stop(checksum=self._cpu.registers["rax"])

    def _load(self, address: int) -> int:
        at = address - layout.MEMORY
        if self._guest is not None:
            data = self._guest.read(self._task.task, at, _BYTES)
        else:
            parts: list[bytes] = []
            task = self._task.task
            access.load(task, task.process.mm, self._slot.address + at, _BYTES, parts, user=False)
            data = b"".join(parts)
        return int.from_bytes(data, "little")

    def _store(self, address: int, value: int) -> None:
        at, data = address - layout.MEMORY, value.to_bytes(_BYTES, "little")
        if self._guest is not None:
            self._guest.write(self._task.task, at, data)
        else:
            task = self._task.task
            access.store(task, task.process.mm, self._slot.address + at, data, user=False)


class ModelHost:
    """See `host.Host`."""

    exits_on_missing = True

    def __init__(self, profile: Profile = NEXT) -> None:
        self.kernel = ModelKernel(profile)
        self.process = self.kernel.process()
        self._slot: ModelMapping | None = None
        self._guest: Guest | None = None

    def map(self, memory: Memory, length: int) -> ModelMapping:
        made = self._slot = self.process.map(memory, length, grow_pool=True)
        if memory.type is MemoryType.GUEST_MEMFD and made.backing is not None:
            mm, target = self.process.process.mm, made.backing.object
            self._guest = Guest(mm, target, made.address, exit_on_missing=True)
        return made

    def cpu(self, number: int, walk: Walk, *, user: bool) -> ModelCpu:
        del number
        assert self._slot is not None
        begin = layout.start(program.WALK, walk.registers(layout.MEMORY), user=user)
        return ModelCpu(self.process.task(), self._slot, self._guest if user else None, begin)

    def close(self) -> None:
        """Nothing of it is the system's; every invariant is walked."""
        self.kernel.check()
