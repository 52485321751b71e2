"""Pages of a VM that asks for each: into memory that we share with it, or with the answer.

Shared memory is a memfd that both have.  A page is put there by UFFDIO_COPY, through a mapping and
a userfaultfd of this process: the kernel fills the page and then shows it to everybody, in one
step, and where one is already it writes nothing (EEXIST).  So nobody sees half a page, and what
the guest has written since is never undone, whoever asks how often (mm/userfaultfd.c,
`shmem_mfill_atomic_pte`).  What was delivered once and is not there any more, the guest has given
back: it is zeros from then on.

Which pages were delivered is written in memory that outlives this process.
"""

from __future__ import annotations

import errno
import mmap
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from typing import Protocol

import msgspec

from userfault.kernel.errors import KernelError
from userfault.kernel.modes import Mode
from userfault.linux.libc import fallocate
from userfault.linux.libc import madvise as advise
from userfault.linux.libc import mmap as map_memory
from userfault.linux.libc import munmap as unmap
from userfault.linux.refused import CallRefusedError
from userfault.linux.uffd import LiveUserfaultfd
from userfault.uapi.mman import MADV_DONTNEED, MAP_SHARED, PROT_READ, PROT_WRITE

Bytes = bytes | bytearray | memoryview
_DELIVERED = 1
_FORGOTTEN = 256  # pages, after which our page tables need not know them any more


class Part(msgspec.Struct, frozen=True):
    """`length` bytes of guest memory from `gpa` on: at `offset` of the image, or of a memfd."""

    gpa: int
    length: int
    offset: int


class Parts:
    """Ranges of guest memory, and where each lies."""

    def __init__(self, parts: Sequence[Part]) -> None:
        self._parts = sorted(parts, key=lambda each: each.gpa)
        self._starts = [each.gpa for each in self._parts]

    def pieces(self, gpa: int, length: int) -> Iterator[tuple[int, int]]:
        """[offset, length] one after the other; offset -1 for what lies in no range."""
        end = gpa + length
        while gpa < end:
            number = bisect_right(self._starts, gpa) - 1
            part = self._parts[number] if number >= 0 else None
            if part is not None and gpa < part.gpa + part.length:
                size = min(end, part.gpa + part.length) - gpa
                yield part.offset + gpa - part.gpa, size
            else:
                following = self._starts[number + 1 : number + 2]
                size = min([end, *following]) - gpa
                yield -1, size
            gpa += size

    def whole(self, gpa: int, length: int) -> int | None:
        """The offset, where one range has all of it."""
        found = list(self.pieces(gpa, length))
        return found[0][0] if len(found) == 1 and found[0][0] >= 0 else None


class Delivers(Protocol):
    """One way of it."""

    def there(self, gpa: int, length: int) -> bool:
        """Whether it was delivered before, and is there now."""

    def put(self, gpa: int, data: Bytes) -> None:
        """Deliver.  Raises OSError, KernelError where there is no room for it."""

    def close(self) -> None:
        """Let go of it."""


class WithTheAnswer:
    """It is not ours to put anywhere.  (Who has it twice takes the first.)"""

    def there(self, gpa: int, length: int) -> bool:
        """Never: it is sent again."""
        del gpa, length
        return False

    def put(self, gpa: int, data: Bytes) -> None:
        """The answer has it."""

    def close(self) -> None:
        """Nothing is held."""


class _Slot:
    """A mapping of one memfd.  `first`: number of its first page among all."""

    def __init__(self, part: Part, memory: int, first: int, uffd: LiveUserfaultfd) -> None:
        self.part, self.memory, self.first = part, memory, first
        access = PROT_READ | PROT_WRITE
        self.address = map_memory(0, part.length, access, MAP_SHARED, memory, part.offset)
        try:
            uffd.register(self.address, part.length, Mode.MISSING)
        except KernelError:
            unmap(self.address, part.length)
            raise


class IntoMemory:
    """`slots`: each with its memfd, which stays the caller's.  `states`: a byte a page.

    Raises OSError, KernelError where memory of that kind cannot be filled from here.
    """

    def __init__(self, slots: Sequence[tuple[Part, int]], states: int, page_size: int) -> None:
        self._page = page_size
        self._uffd = LiveUserfaultfd.open(user_mode_only=True)
        self._slots: list[_Slot] = []
        self._filled = 0
        first = 0
        try:
            for part, memory in slots:
                self._slots.append(_Slot(part, memory, first, self._uffd))
                first += part.length // page_size
            self._states = mmap.mmap(states, first)
        except BaseException:
            self._unmap()
            raise

    @staticmethod
    def pages(slots: Sequence[tuple[Part, int]], page_size: int) -> int:
        """How many states it takes."""
        return sum(part.length for part, _ in slots) // page_size

    def there(self, gpa: int, length: int) -> bool:
        """What was dropped since is made zeros again: bytes that are there stay (fallocate(2))."""
        slot = self._slot(gpa)
        page = self._first_page(slot, gpa)
        count = length // self._page
        if self._states[page : page + count] != bytes([_DELIVERED]) * count:
            return False
        fallocate(slot.memory, 0, slot.part.offset + gpa - slot.part.gpa, length)
        return True

    def put(self, gpa: int, data: Bytes) -> None:
        """Page by page; what was delivered, or is there, stays as it is."""
        slot, size = self._slot(gpa), self._page
        view = memoryview(data)
        for at in range(0, len(view), size):
            page = self._first_page(slot, gpa + at)
            if self._states[page] == _DELIVERED:
                self.there(gpa + at, size)
                continue
            address = slot.address + gpa + at - slot.part.gpa
            self._copy(address, view[at : at + size])
            self._states[page] = _DELIVERED
        self._forget(len(view) // size)

    def close(self) -> None:
        """Unmap; the memory is the VM's."""
        self._states.close()
        self._unmap()

    def _copy(self, address: int, data: memoryview) -> None:
        done = 0
        while done < len(data):
            try:
                done += self._uffd.copy(address + done, data[done:], len(data) - done)
            except KernelError as error:
                done += error.done or 0
                if error.errno == errno.EEXIST:
                    done += self._page
                elif not error.done and error.errno != errno.EAGAIN:
                    raise

    def _slot(self, gpa: int) -> _Slot:
        for slot in self._slots:
            if slot.part.gpa <= gpa < slot.part.gpa + slot.part.length:
                return slot
        raise CallRefusedError("UFFDIO_COPY", errno.EFAULT)

    def _first_page(self, slot: _Slot, gpa: int) -> int:
        return slot.first + (gpa - slot.part.gpa) // self._page

    def _forget(self, pages: int) -> None:
        """The guest's memory is not to count as ours, for which the OOM killer would come."""
        self._filled += pages
        if self._filled >= _FORGOTTEN:
            self._filled = 0
            for slot in self._slots:
                advise(slot.address, slot.part.length, MADV_DONTNEED)

    def _unmap(self) -> None:
        self._uffd.close()
        for slot in self._slots:
            unmap(slot.address, slot.part.length)
        self._slots.clear()
