"""The thread that a statement is handed: its memory, its userfaultfds, its witnesses.

The outcomes that it promises of a call (`ok`, `fails`, `blocks`, `raises`) are in caller.py.
"""

from __future__ import annotations

import errno
import os

from userfault.check.words.area import Area, make_area
from userfault.check.words.caller import Caller, Program
from userfault.check.words.flags import READ_WRITE
from userfault.check.words.outcome import CannotRun, Failed
from userfault.check.words.trace import errno_name
from userfault.check.words.uffd import Uffd
from userfault.kernel import calls
from userfault.kernel.calls import PAGE, CallKernel
from userfault.kernel.memtypes import BASE_PAGE, Memory, memory
from userfault.kernel.modes import Feature, names
from userfault.uapi import mman
from userfault.uapi import userfaultfd as abi

_NONE = Feature(0)
SIGBUS = 7
SIGSEGV = 11
BUS_ADRERR = 2  # si_code of a SIGBUS
_HIGH = 1 << 55  # an address that only five-level page tables reach


class Thread(Caller):
    """A thread, and all that a statement does with one."""

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

    # --- Memory -----------------------------------------------------------------------------------

    def map(
        self,
        kind: str | Memory = "anon",
        pages: int = 1,
        *,
        at: int | None = None,
        prot: int = READ_WRITE,
    ) -> Area:
        """A fresh mapping of `pages` pages of its own size, in a place of its own (or `at`)."""
        return make_area(self, memory(kind), pages, at or self.program.free_place(), prot)

    def alias(self, area: Area, *, prot: int = READ_WRITE) -> Area:
        """A second, shared mapping of the file behind an area: how to see its page cache."""
        if area.page > PAGE:  # a private mapping has taken none of the file's pages
            self.reserve(area.page, area.length // area.page)
        address = self.program.free_place()
        flags = mman.MAP_SHARED | mman.MAP_FIXED_NOREPLACE
        self.ok(calls.Mmap(address, area.length, prot, flags, area.fd))
        return Area(address, area.length, area.page, area.fd)

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

    def registered(
        self,
        kind: str | Memory,
        mode: int,
        features: Feature = _NONE,
        *,
        pages: int = 1,
        prot: int = READ_WRITE,
        flags: int = os.O_CLOEXEC | os.O_NONBLOCK,
    ) -> tuple[Uffd, Area]:
        """A userfaultfd, and a fresh mapping all of which is registered with it."""
        uffd = self.uffd(features, flags)
        area = self.map(kind, pages, prot=prot)
        uffd.register(area.address, area.length, mode)
        return uffd, area

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

    def protected(self, address: int) -> bool:
        """Whether pagemap says of a page, or of an empty entry, that it is protected (WP, RWP)."""
        return "W" in self.page(address)

    def vma(self, address: int) -> calls.Vma:
        """The mapping that holds an address, by smaps."""
        found = self.ok(calls.Smaps(address, address + 1)).vmas
        if not found:
            raise Failed(f"there is no mapping at {address:#x}")
        return found[0]

    def registration(self, address: int) -> str:
        """The registration of a mapping by smaps: `um` MISSING, `uw` WP, `ui` MINOR."""
        return " ".join(flag for flag in self.vma(address).flags if flag in ("um", "uw", "ui"))

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


def start(kernel: CallKernel, deadline_s: float) -> Thread:
    """The first thread of a fresh process."""
    program = Program(kernel, deadline_s)
    process = kernel.process()
    return Thread(program, process, process.tasks[0])
