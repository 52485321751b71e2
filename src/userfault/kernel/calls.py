"""The system calls of a check: one struct a call, at the level of the ABI.

`protocol.py` is what a pager needs: typed methods that raise.  This is what a *comparison* needs:
a program is a list of `Call` values, each kernel runs it and answers each with a `Result` whose
value, errno, bytes and signal can be compared.  Nothing is checked before the kernel sees it, so
every bad argument can be written down too.

So that the answers of two kernels are the same, and not only alike:

* programs place their mappings themselves, inside the arena (`ARENA`, `place`), with MAP_FIXED or
  MAP_FIXED_NOREPLACE; an address that the kernel chose is good for nothing but this run;
* descriptors are numbers, the lowest free one as POSIX wants it; a fresh process has 0, 1 and 2,
  so the first one that a program opens is `FIRST_FD`;
* what no two runs share (process, thread and SysV segment ids, page frame numbers, times) is
  either not in a Result or named here as *not comparable*.

A call is made by a task and may block; a Fork or an Exit ends in another process's life.  The
protocols at the end of this file are the whole interface between a program and a kernel.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from typing import Protocol, TypeAlias

import msgspec

from userfault.kernel.memtypes import BASE_PAGE, GIB, MIB
from userfault.kernel.protocol import State
from userfault.uapi import mman
from userfault.uapi.layout import S64, U16, U32, U64, Layout

# --- Where things are ----------------------------------------------------------------------------

PAGE = BASE_PAGE
HUGE = 2 * MIB
GIGANTIC = GIB

# The end of user addresses of a process without five-level page tables (x86-64, aarch64 with 48
# bits has its own); `start >= TASK_SIZE` is what the range checks call outside.
TASK_SIZE = (1 << 47) - PAGE

# Free in every process of both kernels, and aligned for every page size.
ARENA = 0x1000_0000_0000
ARENA_LENGTH = 1 << 40
# Apart enough that two places never touch, so that no VMA merges with the next place's.
PLACE_LENGTH = 8 * GIB


def place(number: int) -> int:
    """The address of the `number`-th place of the arena: 8 GiB of free address space, aligned."""
    return ARENA + number * PLACE_LENGTH


# 0, 1 and 2 are open on /dev/null.
FIRST_FD = 3

# What `CallKernel.release` says of a model of a kernel that does not exist yet.
UNRELEASED = (99, 0)


# --- Answers -------------------------------------------------------------------------------------


class SignalInfo(msgspec.Struct, frozen=True):
    """The siginfo of a SIGBUS or SIGSEGV: `si_signo`, `si_code`, `si_addr`, `si_addr_lsb`.

    `lsb` is 0 unless the code is BUS_MCEERR_AR or BUS_MCEERR_AO.
    """

    number: int
    code: int
    address: int
    lsb: int = 0


class Vma(msgspec.Struct, frozen=True):
    """One entry of /proc/PID/smaps: what `Smaps` answers.  Sizes are in bytes.

    `permissions` as in the file (`rw-p`).  `name` is there for the kernel's own ([vdso], [vvar]),
    else empty.  `flags` are those of VmFlags that are in `VM_FLAGS`, in that order.
    """

    start: int
    end: int
    permissions: str
    offset: int
    name: str = ""
    page_size: int = PAGE
    rss: int = 0
    anonymous: int = 0
    huge: int = 0  # AnonHugePages: mapped by a THP
    locked: int = 0
    flags: tuple[str, ...] = ()


# VmFlags that a program can compare; the others depend on the build or on madvise alone.
# `um`, `uw`, `ui`: registered MISSING, WP, MINOR; `ur`: RWP (7.3).
VM_FLAGS = ("sh", "lo", "ht", "hg", "nh", "um", "uw", "ui", "ur")


class Result(msgspec.Struct, frozen=True, omit_defaults=True):
    """How a call ended.

    `value`: what it returned (0 when it failed).  `errno`: why it failed, else 0.  `data`: the
    bytes it wrote back, by call.  `signal`: the signal that a touch ended with; `value` is then
    the number of bytes touched before it.  `vmas`: the answer of Smaps.
    """

    value: int = 0
    errno: int = 0
    data: bytes = b""
    signal: SignalInfo | None = None
    vmas: tuple[Vma, ...] = ()

    @property
    def ok(self) -> bool:
        """No errno and no signal."""
        return not self.errno and self.signal is None


# --- Touching memory -----------------------------------------------------------------------------


class Read(msgspec.Struct, frozen=True, tag=True):
    """Load `length` bytes in user mode, from low to high addresses; data: the bytes.

    Aligned words of 8 bytes where the range allows it, single bytes at its ragged ends: the first
    access to each page is at the lowest address of the range in it.
    """

    address: int
    length: int


class Write(msgspec.Struct, frozen=True, tag=True):
    """Store bytes in user mode, in the order of `Read`."""

    address: int
    data: bytes


# --- The address space ---------------------------------------------------------------------------


class Mmap(msgspec.Struct, frozen=True, tag=True):
    """mmap(2); value: the address."""

    address: int
    length: int
    prot: int = mman.PROT_READ | mman.PROT_WRITE
    flags: int = mman.MAP_PRIVATE | mman.MAP_ANONYMOUS | mman.MAP_FIXED_NOREPLACE
    fd: int = -1
    offset: int = 0


class Munmap(msgspec.Struct, frozen=True, tag=True):
    """munmap(2)."""

    address: int
    length: int


class Mremap(msgspec.Struct, frozen=True, tag=True):
    """mremap(2); value: the new address."""

    address: int
    old_length: int
    new_length: int
    flags: int = 0
    new_address: int = 0


class Mprotect(msgspec.Struct, frozen=True, tag=True):
    """mprotect(2)."""

    address: int
    length: int
    prot: int


class Madvise(msgspec.Struct, frozen=True, tag=True):
    """madvise(2)."""

    address: int
    length: int
    advice: int


class Mlock(msgspec.Struct, frozen=True, tag=True):
    """mlock(2)."""

    address: int
    length: int


class Munlock(msgspec.Struct, frozen=True, tag=True):
    """munlock(2)."""

    address: int
    length: int


class Mincore(msgspec.Struct, frozen=True, tag=True):
    """mincore(2); data: one byte a 4 KiB page, bit 0 (the only one kept) if it is resident."""

    address: int
    length: int


# --- Files ---------------------------------------------------------------------------------------


class File(enum.Enum):
    """What `Open` can open."""

    ZERO = "/dev/zero"
    USERFAULTFD = "/dev/userfaultfd"
    KVM = "/dev/kvm"
    ORDINARY = "ordinary"  # a fresh empty file of a file system on a disk
    TMPFS = "tmpfs"  # a fresh empty file, alone on a fresh tmpfs of `Open.pages` pages


class Open(msgspec.Struct, frozen=True, tag=True):
    """open(2) of one of `File`; value: the descriptor.  `flags`: O_RDONLY, O_RDWR, O_CLOEXEC."""

    file: File
    flags: int
    pages: int = 0


class Reopen(msgspec.Struct, frozen=True, tag=True):
    """open(2) of /proc/self/fd/`fd`: the same file with another access mode."""

    fd: int
    flags: int


class MemfdCreate(msgspec.Struct, frozen=True, tag=True):
    """memfd_create(2); value: the descriptor.  MFD_HUGETLB and a size make it a hugetlb file."""

    flags: int = 0


class Close(msgspec.Struct, frozen=True, tag=True):
    """close(2)."""

    fd: int


class Dup(msgspec.Struct, frozen=True, tag=True):
    """dup(2); value: the descriptor."""

    fd: int


class Pipe(msgspec.Struct, frozen=True, tag=True):
    """pipe2(2); data: `PIPE_FDS`.  `flags`: O_NONBLOCK, O_CLOEXEC."""

    flags: int = 0


PIPE_FDS = Layout("pipefd", ("read", U32), ("write", U32))


class Ftruncate(msgspec.Struct, frozen=True, tag=True):
    """ftruncate(2)."""

    fd: int
    length: int


class Fallocate(msgspec.Struct, frozen=True, tag=True):
    """fallocate(2)."""

    fd: int
    mode: int
    offset: int
    length: int


class Fstat(msgspec.Struct, frozen=True, tag=True):
    """fstat(2); data: `STAT_FIELDS`, the part of struct stat that two kernels share."""

    fd: int


STAT_FIELDS = Layout("stat", ("size", S64), ("blocks", S64))  # blocks of 512 bytes


class Pread(msgspec.Struct, frozen=True, tag=True):
    """pread(2) into a private buffer of the task; value: the length, data: the bytes."""

    fd: int
    length: int
    offset: int = 0


class Pwrite(msgspec.Struct, frozen=True, tag=True):
    """pwrite(2) from a private buffer of the task."""

    fd: int
    data: bytes
    offset: int = 0


class ReadInto(msgspec.Struct, frozen=True, tag=True):
    """read(2) with an address of the process as its buffer: the kernel writes that memory."""

    fd: int
    address: int
    length: int


class WriteFrom(msgspec.Struct, frozen=True, tag=True):
    """write(2) with an address of the process as its buffer: the kernel reads that memory."""

    fd: int
    address: int
    length: int


class ReadFd(msgspec.Struct, frozen=True, tag=True):
    """read(2) into a private buffer, of userfaultfd messages above all; data: the bytes.

    `nowait` is RWF_NOWAIT of preadv2(2), which a blocking descriptor obeys too.
    """

    fd: int
    length: int
    nowait: bool = False


class WriteFd(msgspec.Struct, frozen=True, tag=True):
    """write(2) from a private buffer."""

    fd: int
    data: bytes


class Lseek(msgspec.Struct, frozen=True, tag=True):
    """lseek(2); value: the offset."""

    fd: int
    offset: int
    whence: int


class Poll(msgspec.Struct, frozen=True, tag=True):
    """poll(2) of one descriptor; value: 0 or 1, data: `POLL_REVENTS`.  A timeout of -1 waits."""

    fd: int
    events: int
    timeout_ms: int = 0


POLL_REVENTS = Layout("revents", ("revents", U16))


class Fcntl(msgspec.Struct, frozen=True, tag=True):
    """fcntl(2) with an integer argument (F_GETFL, F_SETFL, F_ADD_SEALS, F_GETFD, ...)."""

    fd: int
    command: int
    argument: int = 0


class ProcessVmReadv(msgspec.Struct, frozen=True, tag=True):
    """process_vm_readv(2) of one range of process `pid`, into a private buffer; data: the bytes."""

    pid: int
    address: int
    length: int


# --- userfaultfd ---------------------------------------------------------------------------------


class Userfaultfd(msgspec.Struct, frozen=True, tag=True):
    """userfaultfd(2); value: the descriptor."""

    flags: int


class Ioctl(msgspec.Struct, frozen=True, tag=True):
    """ioctl(2).

    `argument`: bytes are put into a private buffer whose address is passed, and data is the
    buffer afterwards; an int is passed as it is (0: a null pointer; an address of the process:
    the struct lies in memory that may fault), and data is then empty.
    """

    fd: int
    request: int
    argument: bytes | int = 0


class Fdinfo(msgspec.Struct, frozen=True, tag=True):
    """/proc/self/fdinfo/`fd` of a userfaultfd; data: its lines `pending:`, `total:`, `API:`.

    A witness: it is read from outside of the task and never blocks.
    """

    fd: int


# --- SysV shared memory --------------------------------------------------------------------------


class Shmget(msgspec.Struct, frozen=True, tag=True):
    """shmget(2) with IPC_PRIVATE; value: the id (not comparable).  `flags`: SHM_HUGETLB, mode."""

    length: int
    flags: int


class Shmat(msgspec.Struct, frozen=True, tag=True):
    """shmat(2); value: the address."""

    id: int
    address: int
    flags: int = 0


class Shmdt(msgspec.Struct, frozen=True, tag=True):
    """shmdt(2)."""

    address: int


class ShmRemove(msgspec.Struct, frozen=True, tag=True):
    """shmctl(2) with IPC_RMID: the segment goes with its last attachment."""

    id: int


# --- Processes, tasks, rights --------------------------------------------------------------------


class Fork(msgspec.Struct, frozen=True, tag=True):
    """fork(2); value: the child's pid (not comparable), to be looked up in `CallKernel.processes`.

    The child has one task, which has nothing to do.
    """


class Exit(msgspec.Struct, frozen=True, tag=True):
    """exit_group(2): ends the process with all its tasks.  Their pendings end with ESRCH."""

    code: int = 0


class Wait(msgspec.Struct, frozen=True, tag=True):
    """wait4(2) for the child `pid`; value: 0, data: `WAIT_STATUS`."""

    pid: int


WAIT_STATUS = Layout("wstatus", ("status", U32))


class Signal(msgspec.Struct, frozen=True, tag=True):
    """tgkill(2): a signal with an empty handler, to thread `thread` of the caller's process.

    It ends the sleep of an interruptible wait.  `restart`: with SA_RESTART.
    """

    thread: int
    restart: bool = False


CAP_SYS_PTRACE = 19
CAP_IPC_LOCK = 14
CAP_SYS_ADMIN = 21


class DropCapability(msgspec.Struct, frozen=True, tag=True):
    """capset(2): the calling task alone gives up one capability for good."""

    capability: int


class Sysctl(msgspec.Struct, frozen=True, tag=True):
    """Read a number under /proc/sys, as `vm/unprivileged_userfaultfd`; value: the number.

    With `new` it is written: that changes the whole system, so a program puts the old one back.
    """

    name: str
    new: int | None = None


# --- Virtual machines ----------------------------------------------------------------------------


class GuestRead(msgspec.Struct, frozen=True, tag=True):
    """A load by the guest whose memory is the guest_memfd `fd`, at guest address 0 and on.

    A stage-2 fault, not one of a mapping.  Models alone have guests: a running kernel would need
    a virtual CPU and code for it.
    """

    fd: int
    address: int
    length: int


class GuestWrite(msgspec.Struct, frozen=True, tag=True):
    """A store by the same guest."""

    fd: int
    address: int
    data: bytes


class GuestConvert(msgspec.Struct, frozen=True, tag=True):
    """Pages of the same guest become its own (`private`), or are shared with its host again.

    (KVM_SET_MEMORY_ATTRIBUTES; a flag of the file itself in patches of 2026.)
    """

    fd: int
    address: int
    length: int
    private: bool


class KvmRead(msgspec.Struct, frozen=True, tag=True):
    """A load by KVM itself, for an instruction that it emulates: by the slot's host address."""

    address: int
    length: int


# --- Witnesses: page states ----------------------------------------------------------------------


class Pagemap(msgspec.Struct, frozen=True, tag=True):
    """/proc/self/pagemap; data: one 64-bit word for each 4 KiB page, only bits of `PAGEMAP_BITS`.

    A witness: it is read from outside of the task and never blocks.
    """

    address: int
    length: int


# Present, swap, file, guard region, uffd, exclusive: bits 63, 62, 61, 58, 57, 56.
PAGEMAP_BITS = 0b111 << 61 | 0b111 << 56


class Survey(msgspec.Struct, frozen=True, tag=True):
    """What pagemap says of `count` pages, `stride` bytes apart, and bytes of those that are there.

    Data: the words, as of Pagemap; then `length` bytes, from `offset` into the page on, of each
    page whose word has no bit of `mask` but PM_PRESENT.  Such a page does not fault, so that a
    survey is a witness too; of one that may not be read there are no bytes.
    """

    address: int
    stride: int
    count: int
    mask: int
    offset: int
    length: int


class PagemapScan(msgspec.Struct, frozen=True, tag=True):
    """The PAGEMAP_SCAN ioctl of /proc/self/pagemap (6.7).

    Value: the number of regions; data: `SCAN_END`, then one `page_region` each.  Of a call that
    fails, `SCAN_END` alone: what is in the argument's `walk_end` then, which went in as 0.
    """

    start: int
    end: int
    flags: int = 0
    category_mask: int = 0
    category_inverted: int = 0
    category_anyof_mask: int = 0
    return_mask: int = 0
    max_pages: int = 0
    regions: int = 512
    size: int = 96


SCAN_END = Layout("walk_end", ("walk_end", U64))


class Smaps(msgspec.Struct, frozen=True, tag=True):
    """/proc/self/smaps: the VMAs that overlap [start, end), in address order, as `vmas`.

    A witness: it is read from outside of the task.
    """

    start: int
    end: int


Touch: TypeAlias = Read | Write
Call: TypeAlias = (
    Read
    | Write
    | Mmap
    | Munmap
    | Mremap
    | Mprotect
    | Madvise
    | Mlock
    | Munlock
    | Mincore
    | Open
    | Reopen
    | MemfdCreate
    | Close
    | Dup
    | Pipe
    | Ftruncate
    | Fallocate
    | Fstat
    | Pread
    | Pwrite
    | ReadInto
    | WriteFrom
    | ReadFd
    | WriteFd
    | Lseek
    | Poll
    | Fcntl
    | ProcessVmReadv
    | Userfaultfd
    | Ioctl
    | Fdinfo
    | Shmget
    | Shmat
    | Shmdt
    | ShmRemove
    | Fork
    | Exit
    | Wait
    | Signal
    | DropCapability
    | Sysctl
    | GuestRead
    | GuestWrite
    | GuestConvert
    | KvmRead
    | Pagemap
    | Survey
    | PagemapScan
    | Smaps
)

# Looked at from outside of the tasks, at once, whatever the task that was asked is at.
WITNESSES = (Pagemap, Survey, Fdinfo, Smaps)

# --- Who runs them -------------------------------------------------------------------------------


class CallPending(Protocol):
    """A call that a task was given."""

    @property
    def call(self) -> Call:
        """What was asked."""

    @property
    def state(self) -> State:
        """Where it stands; certain after `CallKernel.settle()`, a snapshot before."""

    @property
    def waits_for(self) -> str:
        """What a BLOCKED call waits for: one of the `WAITS_` names, else the kernel's own name."""

    def result(self, timeout_s: float = ...) -> Result:
        """The result; raises TimeoutError if it is not there within `timeout_s` seconds.

        (A model, which has no time, raises at once when nothing more can happen.)  A call whose
        process has ended has the errno ESRCH.
        """


WAITS_FAULT = "fault"  # in handle_userfault: for its page
WAITS_EVENT = "event"  # in userfaultfd_event_wait_completion: for its event to be read
WAITS_MESSAGE = "message"  # in read(2) or poll(2) of a userfaultfd
WAITS_PIPE = "pipe"
WAITS_CHILD = "child"  # in wait4(2)


class CallTask(Protocol):
    """A thread: one call at a time, in the order given."""

    @property
    def thread_id(self) -> int:
        """The thread id as messages with THREAD_ID carry it (not comparable)."""

    def call(self, call: Call) -> CallPending:
        """Give it a call; returns at once."""


class CallProcess(Protocol):
    """An address space with tasks and descriptors."""

    @property
    def pid(self) -> int:
        """The process id (not comparable)."""

    @property
    def alive(self) -> bool:
        """False once it has exited or was killed."""

    @property
    def tasks(self) -> list[CallTask]:
        """Its tasks; a fresh process has one."""

    def task(self) -> CallTask:
        """A new thread."""

    def look(self, wanted: Sequence[Call]) -> Sequence[CallPending]:
        """Look from outside of the tasks, at all of it at once.

        By `WITNESSES`, Fstat and Pread: nothing that could sleep.  Whoever looks must have let the
        kernel settle.
        """


class CallKernel(Protocol):
    """A kernel for one program: start processes, let things settle, close."""

    @property
    def name(self) -> str:
        """For reports, as `Linux 6.18.44` or `model 7.3`."""

    @property
    def release(self) -> tuple[int, int]:
        """For outcomes that depend on the version: (6, 18), or UNRELEASED."""

    @property
    def processes(self) -> Mapping[int, CallProcess]:
        """Every process by pid, with those that a Fork made."""

    def process(self) -> CallProcess:
        """A fresh process with one task, all capabilities of the caller, and fds 0 to 2."""

    def hugepages(self, page_size: int, pages: int) -> None:
        """See to it that this many pages of a hugetlb pool are free until `close()`.

        Raises MemoryUnavailable where that cannot be.
        """

    def swap(self) -> None:
        """See to it that there is swap space until `close()`.

        Raises MemoryUnavailable where that cannot be.
        """

    def settle(self, timeout_s: float = ...) -> None:
        """Return when every task is idle or blocked; TimeoutError if one still runs."""

    def close(self) -> None:
        """End every process, give back every page."""
