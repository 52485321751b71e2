"""What statements are written in: a thread of a process that makes calls, on any kernel.

Each method says what must happen: `ok` (the call succeeds), `fails` (with this errno), `blocks`
(on this), `raises` (this signal).  Anything else is Failed, with the call in the trace.
"""

from __future__ import annotations

import errno
import os
import time

from userfault.check.words.area import Area, make_area
from userfault.check.words.outcome import CannotRun, Failed, Lost, expect
from userfault.check.words.trace import errno_name, show_call, show_result
from userfault.check.words.uffd import Uffd
from userfault.kernel import calls
from userfault.kernel.calls import (
    PAGE,
    Call,
    CallKernel,
    CallPending,
    CallProcess,
    CallTask,
    Result,
)
from userfault.kernel.errors import Unavailable
from userfault.kernel.memtypes import BASE_PAGE, Memory, memory
from userfault.kernel.modes import Feature, names
from userfault.kernel.protocol import State
from userfault.uapi import mman
from userfault.uapi import userfaultfd as abi

_NONE = Feature(0)
_SETTLE_S = 5.0
SIGBUS = 7
SIGSEGV = 11
_HIGH = 1 << 55  # an address that only five-level page tables reach


class Program:
    """What the threads of one run share: the kernel, the trace, the deadline, the free places."""

    def __init__(self, kernel: CallKernel, deadline_s: float) -> None:
        self.kernel = kernel
        self.trace: list[str] = []
        self._deadline = time.monotonic() + deadline_s
        self._places = 0
        self._threads = 0

    def settle(self) -> None:
        """Let everything come to rest; raises Lost if it does not."""
        left = self._deadline - time.monotonic()
        try:
            self.kernel.settle(max(min(left, _SETTLE_S), 0.1))
        except TimeoutError as error:
            raise Lost("hang", cause=str(error)) from None
        if left < 0:
            raise Lost("hang", cause="the statement's deadline is over")

    def free_place(self) -> int:
        """The address of a place that nobody was given yet."""
        self._places += 1
        return calls.place(self._places)

    def name_thread(self) -> str:
        self._threads += 1
        return f"T{self._threads}"


class Blocked:
    """A call that sleeps."""

    def __init__(self, thread: Thread, pending: CallPending) -> None:
        self._thread = thread
        self._pending = pending

    @property
    def asleep(self) -> bool:
        """True while it still sleeps, now that everything has come to rest."""
        self._thread.program.settle()
        return self._pending.state is not State.DONE

    def still(self, why: str) -> None:
        """It must still sleep; `why` says what does not wake it."""
        if not self.asleep:
            raise Failed(f"{show_call(self._pending.call)} went on after {why}")

    def finish(self) -> Result:
        """It must have come to its end by now, whatever that is."""
        self._thread.program.settle()
        return self._thread.ended(self._pending)

    def ok(self) -> Result:
        """It must have succeeded by now."""
        return self._thread.must_succeed(self._pending.call, self.finish())

    def read(self, promised: bytes) -> None:
        """It is a Read, and must have come to its end with these bytes (repeated)."""
        expect(self.ok().data[: len(promised)], promised, "the bytes that the reader got")


class Thread:
    """A thread, and the process it is in."""

    def __init__(self, program: Program, process: CallProcess, task: CallTask) -> None:
        self.program = program
        self.process = process
        self.thread_id = task.thread_id
        self.name = program.name_thread()
        self._task = task

    # --- Other threads ----------------------------------------------------------------------------

    def thread(self) -> Thread:
        """Another thread of this process."""
        return Thread(self.program, self.process, self.process.task())

    def fork(self) -> Thread:
        """The one thread of a child process (there must be no event to wait for)."""
        return self.child(self.ok(calls.Fork()).value)

    def child(self, pid: int) -> Thread:
        """The thread of the child with this pid."""
        process = self.program.kernel.processes[pid]
        return Thread(self.program, process, process.tasks[0])

    # --- Calls ------------------------------------------------------------------------------------

    def call(self, call: Call) -> CallPending:
        """Give this thread a call, and let everything come to rest."""
        pending = self._task.call(call)
        self.program.settle()
        if pending.state is not State.DONE:
            self._note(f"{show_call(call)} -> sleeps: {pending.waits_for or 'not started'}")
        return pending

    def do(self, call: Call) -> Result:
        """The result of a call that must not sleep."""
        return self.ended(self.call(call))

    def in_one_go(self, *wanted: Call) -> list[Result]:
        """The results of calls that must not sleep, with no rest between them.

        For what must not wait for something that spins until the last of them.
        """
        pending = [self._task.call(call) for call in wanted]
        self.program.settle()
        return [self.must_succeed(one.call, self.ended(one)) for one in pending]

    def ended(self, pending: CallPending) -> Result:
        """The result of a call that must have come to its end."""
        if pending.state is not State.DONE:
            waits = pending.waits_for or "the call before it"
            raise Failed(f"{show_call(pending.call)} sleeps, waiting for {waits}")
        result = pending.result()
        self._note(f"{show_call(pending.call)} -> {show_result(result)}")
        if not self.process.alive and not isinstance(pending.call, calls.Exit):
            raise Lost("crash", cause=f"the process ended by itself at {show_call(pending.call)}")
        return result

    def ok(self, call: Call) -> Result:
        """The result of a call that must succeed."""
        return self.must_succeed(call, self.do(call))

    def must_succeed(self, call: Call, result: Result) -> Result:
        """`result`, unless it is a failure."""
        if not result.ok:
            raise Failed(f"{show_call(call)}: promised success, saw {show_result(result)}")
        return result

    def fails(self, call: Call, code: int) -> Result:
        """The result of a call that must fail with this errno."""
        result = self.do(call)
        if result.errno != code:
            raise Failed(
                f"{show_call(call)}: promised {errno_name(code)}, saw {show_result(result)}"
            )
        return result

    def blocks(self, call: Call, on: str = calls.WAITS_FAULT) -> Blocked:
        """A call that must sleep, waiting for one of `calls.WAITS_`."""
        pending = self.call(call)
        if pending.state is State.DONE:
            self.ended(pending)
            raise Failed(f"{show_call(call)} did not sleep: {show_result(pending.result())}")
        expect(pending.waits_for, on, f"what {show_call(call)} waits for")
        return Blocked(self, pending)

    def raises(self, call: calls.Touch, signal: int) -> calls.SignalInfo:
        """The siginfo of a touch that must end with this signal."""
        result = self.do(call)
        if result.signal is None or result.signal.number != signal:
            raise Failed(f"{show_call(call)}: promised signal {signal}, saw {show_result(result)}")
        return result.signal

    # --- Memory -----------------------------------------------------------------------------------

    def map(
        self,
        kind: str | Memory = "anon",
        pages: int = 1,
        *,
        at: int | None = None,
        prot: int = mman.PROT_READ | mman.PROT_WRITE,
    ) -> Area:
        """A fresh mapping of `pages` pages of its own size, in a place of its own (or `at`)."""
        return make_area(self, memory(kind), pages, at or self.program.free_place(), prot)

    def alias(self, area: Area, *, prot: int = mman.PROT_READ | mman.PROT_WRITE) -> Area:
        """A second, shared mapping of the file behind an area: how to see its page cache."""
        if area.page > PAGE:  # a private mapping has taken none of the file's pages
            self.reserve(area.page, area.length // area.page)
        address = self.program.free_place()
        flags = mman.MAP_SHARED | mman.MAP_FIXED_NOREPLACE
        self.ok(calls.Mmap(address, area.length, prot, flags, area.fd))
        return Area(address, area.length, area.page, area.fd)

    def reserve(self, page_size: int, pages: int) -> None:
        """See to free pages in a hugetlb pool, for what `map` does not know of (copies of a fork).

        CannotRun where there are none.
        """
        try:
            self.program.kernel.hugepages(page_size, pages)
        except Unavailable as error:
            raise CannotRun(str(error)) from None

    def swap(self) -> None:
        """See to swap space.  CannotRun where there is none."""
        try:
            self.program.kernel.swap()
        except Unavailable as error:
            raise CannotRun(str(error)) from None

    def read(self, address: int, length: int = 1) -> bytes:
        """Bytes of memory; the touch must succeed without a sleep."""
        return self.ok(calls.Read(address, length)).data

    def write(self, address: int, data: bytes) -> None:
        """Write memory; the touch must succeed without a sleep."""
        self.ok(calls.Write(address, data))

    def source(self, fill: bytes = b"s", length: int = PAGE) -> int:
        """The address of `length` bytes of ordinary memory full of `fill`, to COPY from."""
        pages = -(-length // BASE_PAGE)
        area = self.map("anon", pages)
        self.write(area.address, fill * (length // len(fill)))
        return area.address

    def task_size(self) -> int:
        """The end of user addresses, as userfaultfd has it: with five-level tables it is later."""
        if not self.do(calls.Mmap(_HIGH, PAGE)).ok:
            return calls.TASK_SIZE
        self.ok(calls.Munmap(_HIGH, PAGE))
        return (1 << 56) - PAGE

    # --- userfaultfd ------------------------------------------------------------------------------

    def descriptor(self, flags: int = os.O_CLOEXEC | os.O_NONBLOCK) -> int:
        """A userfaultfd without a handshake; CannotRun where we may have none."""
        result = self.do(calls.Userfaultfd(flags))
        if result.errno in (errno.EPERM, errno.ENOSYS):
            raise CannotRun(
                "no userfaultfd",
                cause=f"userfaultfd(2) says {errno_name(result.errno)}",
                cure="run as root, or see `userfault probe`",
            )
        self.must_succeed(calls.Userfaultfd(flags), result)
        return result.value

    def uffd(self, features: Feature = _NONE, flags: int = os.O_CLOEXEC | os.O_NONBLOCK) -> Uffd:
        """A userfaultfd with these features; CannotRun on a kernel that lacks one."""
        missing = features & ~self.offered_features()
        if missing:
            raise CannotRun(f"this kernel lacks {names(missing)}")
        uffd = Uffd(self, self.descriptor(flags))
        result = self.do(uffd.api(features))
        if result.errno == errno.EPERM:
            raise CannotRun("EVENT_FORK needs CAP_SYS_PTRACE")
        self.must_succeed(uffd.api(features), result)
        return uffd

    def offered_features(self) -> Feature:
        """Every feature that this kernel has; anybody may ask."""
        flags = os.O_CLOEXEC | os.O_NONBLOCK | abi.UFFD_USER_MODE_ONLY
        probe = Uffd(self, self.descriptor(flags))
        answer = self.ok(probe.api(Feature(0)))
        self.ok(calls.Close(probe.fd))
        return Feature(abi.uffdio_api.struct.unpack(answer.data)[1])

    # --- Witnesses --------------------------------------------------------------------------------

    def page(self, address: int) -> str:
        """The pagemap word of a page as letters: Present, Swap, File, uffd-Wp, eXclusive.

        `-----` is an empty entry, `P---X` an anonymous page, `-S-W-` a uffd-wp marker.
        """
        word = int.from_bytes(self.ok(calls.Pagemap(address, PAGE)).data, "little")
        bits = {"P": 63, "S": 62, "F": 61, "W": 57, "X": 56}
        return "".join(letter if word >> bit & 1 else "-" for letter, bit in bits.items())

    def vma(self, address: int) -> calls.Vma:
        """The mapping that holds an address, by smaps."""
        found = self.ok(calls.Smaps(address, address + 1)).vmas
        if not found:
            raise Failed(f"there is no mapping at {address:#x}")
        return found[0]

    def resident(self, address: int) -> bool:
        """mincore(2) of one page: of a file, whether its page cache has the page."""
        return bool(self.ok(calls.Mincore(address, PAGE)).data[0])

    def blocks_of(self, fd: int) -> int:
        """st_blocks of a file, in blocks of 512 bytes."""
        blocks: int = calls.STAT_FIELDS.struct.unpack(self.ok(calls.Fstat(fd)).data)[1]
        return blocks

    # --- Releases ---------------------------------------------------------------------------------

    def since(self, release: str) -> bool:
        """True if this kernel is that release (as "7.3") or a later one."""
        major, minor = release.split(".")
        return self.program.kernel.release >= (int(major), int(minor))

    @property
    def unreleased(self) -> bool:
        """True on a model of a kernel that nobody has released, with guest_memfd support."""
        return self.program.kernel.release >= calls.UNRELEASED

    def _note(self, line: str) -> None:
        self.program.trace.append(f"{self.name} {line}")


def start(kernel: CallKernel, deadline_s: float) -> Thread:
    """The first thread of a fresh process."""
    program = Program(kernel, deadline_s)
    process = kernel.process()
    return Thread(program, process, process.tasks[0])
