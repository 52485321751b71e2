"""The calls of a task on memory and on files."""

from __future__ import annotations

from typing import Any

from userfault.check.explore.building.calls import Calls, Descriptor
from userfault.kernel.memtypes import BASE_PAGE as PAGE
from userfault.model.errors import Errno
from userfault.model.files import filesystem
from userfault.model.files.inode import Inode
from userfault.model.mm import access, madvise, mmap, mremap
from userfault.model.mm.scan import Scan, ScanArgument
from userfault.uapi import mman


class MemoryCalls(Calls):
    """Touches of memory, mmap and its family, fallocate and its family."""

    def read(self, address: int, length: int = 1) -> Any:
        """Load: the bytes."""
        parts: list[bytes] = []
        mm = self.task.process.mm

        def run() -> bytes:
            access.load(self.task, mm, address, length, parts, user=True)
            return b"".join(parts)

        return self._call(run)

    def write(self, address: int, data: bytes) -> Any:
        """Store; 0."""
        mm = self.task.process.mm

        return self._do(lambda: access.store(self.task, mm, address, data, user=True))

    def madvise(self, start: int, length: int, advice: int) -> Any:
        """madvise(2)."""
        mm = self.task.process.mm
        return self._do(lambda: madvise.madvise(self.task, mm, start, length, advice))

    def munmap(self, start: int, length: int) -> Any:
        """munmap(2)."""
        mm = self.task.process.mm
        return self._do(lambda: mmap.munmap(self.task, mm, start, length))

    def mprotect(self, start: int, length: int, prot: int) -> Any:
        """mprotect(2)."""
        mm = self.task.process.mm
        return self._do(lambda: mmap.mprotect(mm, start, length, prot))

    def mremap(
        self, old: int, old_length: int, new_length: int, flags: int = 1, new: int = 0
    ) -> Any:
        """mremap(2): the new address."""
        mm = self.task.process.mm
        return self._call(
            lambda: mremap.mremap(self.task, mm, old, old_length, new_length, flags, new)
        )

    def mmap_fixed(
        self,
        start: int,
        length: int,
        kind: str = "anon",
        *,
        file: Inode | None = None,
        offset: int = 0,
        shared: bool = False,
        prot: int = mman.PROT_READ | mman.PROT_WRITE,
    ) -> Any:
        """mmap(2) with MAP_FIXED over what is there: the address."""
        process = self.task.process
        machine = process.machine
        ops = machine.type_of(file) if file is not None else machine.types[kind]
        flags = mman.MAP_FIXED | (mman.MAP_SHARED if shared else mman.MAP_PRIVATE)
        behind = mmap.Behind(ops, file, offset)
        return self._call(
            lambda: mmap.mmap(self.task, process.mm, start, length, prot, flags, behind)
        )

    def scan(self, start: int, end: int, *, flags: int = 0, mask: int = 0, report: int = 0) -> Any:
        """PAGEMAP_SCAN: its regions."""
        mm = self.task.process.mm

        def run() -> list[tuple[int, int, int]]:
            scan = Scan(mm, ScanArgument(start, end, flags, mask, 0, 0, report or mask, 0, 64))
            if scan.errno:
                raise Errno(scan.errno)
            return scan.regions

        return self._call(run)

    # --- files -----------------------------------------------------------------------------------

    def punch(self, file: Descriptor, offset: int, length: int = PAGE) -> Any:
        """fallocate(2) with PUNCH_HOLE."""
        mode = mman.FALLOC_FL_PUNCH_HOLE | mman.FALLOC_FL_KEEP_SIZE
        files = self.task.process.machine.files
        return self._do(lambda: filesystem.fallocate(files, file.object, mode, offset, length))

    def truncate(self, file: Descriptor, size: int) -> Any:
        """ftruncate(2)."""
        files = self.task.process.machine.files
        return self._do(lambda: filesystem.truncate(files, file.object, size))

    def pwrite(self, file: Descriptor, offset: int, data: bytes) -> Any:
        """pwrite(2) from memory that never faults: bytes done."""
        files = self.task.process.machine.files
        return self._call(lambda: filesystem.write(files, file.object, offset, data))

    def pread(self, file: Descriptor, offset: int, length: int = 1) -> Any:
        """pread(2) into memory that never faults."""
        return self._call(lambda: filesystem.read(file.object, offset, length))
