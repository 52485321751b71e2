"""A guest from its first fault to its checksum, one step after the other, and the log of it.

The machine's handler is the script itself: it lets the CPUs run until each waits or is done, reads
the messages, resolves them in the order of the CPUs, and wakes whoever waited.  So the log of a run
depends on nothing but what the kernel does, and two kernels can be compared line by line.
"""

from __future__ import annotations

import errno
from collections.abc import Sequence

import msgspec

from userfault.kernel.errors import RegistrationRefused, UsageError
from userfault.kernel.events import PageFault
from userfault.kernel.memtypes import BASE_PAGE, Memory, MemoryType
from userfault.kernel.modes import FaultFlag, Feature, Mode, names
from userfault.kernel.numbers import one_of
from userfault.kernel.protocol import Mapping, State, Userfaultfd
from userfault.vmm.content import content
from userfault.vmm.program import Walk
from userfault.vmm.stepped.host import Host, HostCpu

WAYS = {
    "missing": Mode.MISSING,
    "minor": Mode.MINOR,
    "wp": Mode.MISSING | Mode.WP,
}
_MOST_ROUNDS = 1 << 20


class Plan(msgspec.Struct, frozen=True):
    """`pages` pages of `memory`, one CPU a walk, and how its faults are served.

    `missing`: pages come by UFFDIO_COPY.  `minor`: their content is in the file before they are
    mapped, by UFFDIO_CONTINUE.  `wp`: all are there and protected, and each is copied aside before
    the guest may write to it: a snapshot of the moment at which it began.
    """

    memory: Memory
    pages: int
    walks: tuple[Walk, ...]
    way: str = "missing"
    user: bool = True

    def __post_init__(self) -> None:
        one_of("way", self.way, tuple(WAYS))


def run(host: Host, plan: Plan) -> list[str]:
    """What happened, a line each; the host is closed."""
    try:
        return _Run(host, plan).log
    finally:
        host.close()


class _Run:
    def __init__(self, host: Host, plan: Plan) -> None:
        self.log: list[str] = []
        self._host = host
        self._plan = plan
        self._size = plan.memory.page_size
        self._slot: Mapping = host.map(plan.memory, plan.pages * self._size)
        if plan.way == "minor" and self._slot.backing is None:
            raise UsageError(
                f"minor faults of {plan.memory}",
                cause="there is no file behind it that pages could be written into",
                cure="take shmem, hugetlb or guest_memfd",
            )
        self._helper = host.process.task()
        self._say(f"slot: {plan.pages} pages of {plan.memory}")
        with_ids: Userfaultfd = host.process.userfaultfd(Feature.THREAD_ID)
        self._uffd = with_ids
        try:
            self._begin()
        finally:
            self._uffd.close()

    def _begin(self) -> None:
        self._served = self._register()
        self._prepare()
        cpus = [
            self._host.cpu(number, walk, user=self._plan.user)
            for number, walk in enumerate(self._plan.walks)
        ]
        self._by_thread = {cpu.thread_id: f"CPU {number}" for number, cpu in enumerate(cpus)}
        self._go_on(cpus)

    def _register(self) -> bool:
        mode = WAYS[self._plan.way]
        try:
            granted = self._uffd.register(self._slot.address, self._slot.length, mode)
        except RegistrationRefused as refused:
            code = errno.errorcode[refused.errno]
            self._say(f"UFFDIO_REGISTER, {names(mode)}: {code}: {refused.cause}")
            return False
        self._say(f"UFFDIO_REGISTER, {names(mode)}: takes {names(granted)}")
        return True

    def _prepare(self) -> None:
        """Put content where it has to be before the guest runs."""
        pages = range(self._plan.pages)
        if not self._served:
            for page in pages:
                self._helper.write(self._address(page), self._content(page)).result()
            self._say(f"all {self._plan.pages} pages filled through the mapping, before the run")
        elif self._plan.way == "wp":
            for page in pages:
                self._uffd.copy(self._address(page), self._content(page), self._size, wp=True)
            self._say(f"UFFDIO_COPY, protected: {self._plan.pages} pages")
        elif self._plan.way == "minor" and not self._exits:
            for page in pages:
                self._load(page)
            self._say(f"{self._plan.pages} pages written into the file")

    def _go_on(self, cpus: Sequence[HostCpu]) -> None:
        """Let all run, serve what they wait for, until each is done."""
        pending = {number: cpu.go() for number, cpu in enumerate(cpus)}
        for _ in range(_MOST_ROUNDS):
            self._host.kernel.settle()
            for number in [at for at, each in pending.items() if each.state is State.DONE]:
                pending.pop(number).result()
                if self._stopped(number, cpus[number]):
                    pending[number] = cpus[number].go()
            if not pending:
                return
            self._serve()
        raise AssertionError(f"the guest is not done: {self.log[-3:]}")

    def _stopped(self, number: int, cpu: HostCpu) -> bool:
        """Tell why; whether it is to run again."""
        stop = cpu.stop
        assert stop is not None
        if stop.missing is None:
            told = f"done, {stop.checksum:#x}" if stop.checksum is not None else stop.failure
            self._say(f"CPU {number}: {told}")
            return False
        page = stop.missing // self._size
        self._say(f"CPU {number}: exit to the machine, nothing at page {page}")
        if self._plan.way == "minor":
            self._load(page)
            self._say(f"page {page} written into the file")
        # The machine touches it by its own mapping, which the guest's touch did not go through.
        touch = self._helper.read(self._address(page), 1)
        self._host.kernel.settle()
        self._serve()
        touch.result()
        return True

    def _serve(self) -> None:
        """Resolve what is waited for, CPU by CPU, then wake them all."""
        faults = [event for event in self._uffd.read() if isinstance(event, PageFault)]
        faults.sort(key=self._who)
        resolved: list[int] = []
        for fault in faults:
            address = fault.address & -self._size
            page = (address - self._slot.address) // self._size
            flags = names(FaultFlag(fault.flags)) if fault.flags else "read"
            told = "resolved already" if address in resolved else self._resolve(fault, address)
            self._say(f"{self._who(fault)}: page {page}, {flags}: {told}")
            resolved.append(address)
        for address in dict.fromkeys(resolved):
            self._uffd.wake(address, self._size)

    def _resolve(self, fault: PageFault, address: int) -> str:
        page = (address - self._slot.address) // self._size
        if fault.wp:
            saved = self._helper.read(address, self._size).result().data
            same = "as it was" if saved == self._content(page) else "CHANGED"
            self._uffd.writeprotect(address, self._size, protect=False, wake=False)
            return f"copied aside, {same}; UFFDIO_WRITEPROTECT"
        if fault.minor:
            self._uffd.continue_(address, self._size, wake=False)
            return "UFFDIO_CONTINUE"
        self._uffd.copy(address, self._content(page), self._size, wake=False)
        return "UFFDIO_COPY"

    @property
    def _exits(self) -> bool:
        """Whether what the guest touches first comes as an exit, and not as a message."""
        guests = self._plan.memory.type is MemoryType.GUEST_MEMFD
        return guests and self._plan.user and self._host.exits_on_missing

    def _who(self, fault: PageFault) -> str:
        return self._by_thread.get(fault.thread_id, "machine")

    def _load(self, page: int) -> None:
        """Put a page into the file behind the memory."""
        assert self._slot.backing is not None
        self._slot.backing.write(page * self._size, self._content(page))

    def _content(self, page: int) -> bytes:
        small = self._size // BASE_PAGE
        return content(page * small, small)

    def _address(self, page: int) -> int:
        return self._slot.address + page * self._size

    def _say(self, line: str) -> None:
        self.log.append(line)
