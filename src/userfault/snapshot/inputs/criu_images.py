"""The few of CRIU's image files that tell the memory of a task (criu.org/Images; criu 4.2).

Each file is two 32-bit magic numbers, then records: a 32-bit length and a protobuf message.
`pages-N.img` alone is raw: the pages of the entries with the flag "present" of one page map, one
after the other.
"""

from __future__ import annotations

import os
import struct
from array import array
from collections.abc import Iterator

import msgspec

from userfault.snapshot.errors import FormatError
from userfault.snapshot.inputs.protobuf import fields
from userfault.snapshot.inputs.protocol import PAGE
from userfault.source.opening import NoFileError, open_file

_COMMON = 0x54564319
_PSTREE, _PAGEMAP, _MM = 0x50273030, 0x56084025, 0x57492820
_INVENTORY = 0x58313116  # which stands alone
_FILES, _MEMFD, _CORE = 0x56303138, 0x48453499, 0x55053847
_X86_64 = 1  # the machine of a core-PID.img
_LARGEST = 1 << 30  # of a file of records: a page map has some 20 bytes for each run of pages

PARENT, LAZY, PRESENT = 1, 2, 4  # flags of an entry of a page map
_ALIGNED = 8  # its pages begin at a page's border of the file, as they always do uncompressed
_NAME_MOST = 4096  # PATH_MAX
_LAST_FIELD = 5  # of an entry, up to CRIU 4.2
_ADDRESSES = 1 << 57  # 5-level page tables

# Kinds of areas (`status`) that matter here
HEAP, VDSO = 1 << 5, 1 << 3
ANON_SHARED, SYSVIPC, MEMFD = 1 << 8, 1 << 10, 1 << 14
_KERNELS = 1 << 2 | 1 << 12 | 1 << 16 | 1 << 17  # vsyscall, vvar, guard, uprobes: not memory


class Area(msgspec.Struct, frozen=True):
    """An area of a task's address space (`vma_entry`); `file` is an id (`shmid`), bytes else."""

    start: int
    end: int
    offset: int
    file: int
    protection: int
    flags: int
    status: int


class Memory(msgspec.Struct, frozen=True):
    """`mm-PID.img`: the areas in the order of their addresses, and the auxiliary vector."""

    areas: list[Area]
    auxv: list[int]


class PageMap:
    """`pagemap-*.img`: entries in ascending order, held as numbers side by side.

    `address` in bytes, `pages`, `flags`, and `position`: the first page in `pages-N.img`, which has
    `stored` pages.
    """

    def __init__(self) -> None:
        self.pages_id = 0
        self.stored = 0
        self.address = array("Q")
        self.pages = array("Q")
        self.flags = array("B")
        self.position = array("Q")

    def __len__(self) -> int:
        return len(self.address)


def tasks(folder: str) -> list[int]:
    """The pids of a dump that have memory.  Raises FormatError where the folder is no dump."""
    path = os.path.join(folder, "pstree.img")
    if not os.path.exists(path):
        raise FormatError(
            f"{folder} holds no CRIU dump",
            cause="there is no pstree.img in it",
            cure="name the folder that was given as --images-dir",
        )
    found = []
    for message in _records(path, _PSTREE):
        pid = _number(dict(fields(message)), 1, path)
        if os.path.exists(os.path.join(folder, f"mm-{pid}.img")):  # a zombie has none
            found.append(pid)
    return found


def memory(folder: str, pid: int) -> Memory:
    """The areas of a task that are memory of its own or of a file."""
    path = os.path.join(folder, f"mm-{pid}.img")
    areas, auxv = [], []
    for message in _records(path, _MM):
        for number, value in fields(message):
            if number == 13:
                auxv.append(value if isinstance(value, int) else 0)
            elif number == 14:
                area = _area(value, path)
                if not area.status & _KERNELS:
                    areas.append(area)
    areas.sort(key=lambda area: area.start)
    end = 0
    for area in areas:
        if area.start < end or area.end <= area.start or area.end > _ADDRESSES:
            raise _damaged(path, f"the area at {area.start:#x} overlaps another, or ends too early")
        if (area.start | area.end | area.offset) % PAGE:
            raise _damaged(path, f"the area at {area.start:#x} is not whole pages of 4 KiB")
        end = area.end
    return Memory(areas, auxv)


def _area(message: int | bytes, path: str) -> Area:
    if not isinstance(message, bytes):
        raise _damaged(path, "an area is no message")
    found = dict(fields(message))
    return Area(*(_number(found, number, path) for number in range(1, 8)))


def registers(folder: str, pid: int) -> tuple[str, dict[int, bytes]]:
    """The machine (as `uname -m`), and the general registers of each thread of a task.

    Empty for other machines than x86-64, whose registers are kept in another way.
    """
    found = {}
    for thread in _threads(folder, pid):
        path = os.path.join(folder, f"core-{thread}.img")
        if not os.path.exists(path):
            continue
        for message in _records(path, _CORE):
            entry = dict(fields(message))
            if entry.get(1) != _X86_64 or not isinstance(info := entry.get(2), bytes):
                return "", {}
            general = dict(fields(info)).get(2)
            values = dict(fields(general)) if isinstance(general, bytes) else {}
            # The order of the fields is that of struct user_regs_struct (sys/user.h).
            words = [_number(values, number, path) for number in range(1, 28)]
            found[thread] = struct.pack("<27Q", *words)
    return "x86_64" if found else "", found


def _threads(folder: str, pid: int) -> list[int]:
    path = os.path.join(folder, "pstree.img")
    for message in _records(path, _PSTREE):
        listed = list(fields(message))
        if dict(listed).get(1) == pid:
            return [value for number, value in listed if number == 5 and isinstance(value, int)]
    return []


def page_map(folder: str, name: str) -> PageMap:
    """`pagemap-NAME.img`: NAME is a pid, or `shmem-ID`.  Raises FormatError."""
    path = os.path.join(folder, f"pagemap-{name}.img")
    _refuse_compressed(folder)
    found = PageMap()
    end = 0
    for count, message in enumerate(_records(path, _PAGEMAP)):
        entry = dict(fields(message)) or {0: 0}
        if not count:
            found.pages_id = _number(entry, 1, path)
            continue
        if max(entry) > _LAST_FIELD:
            raise _newer(path, f"an entry has a field {max(entry)}: its pages may be compressed")
        address = _number(entry, 1, path)
        pages = _number(entry, 5 if 5 in entry else 2, path)  # 4.2 writes 0 in the old field
        flags = entry.get(4, PARENT if entry.get(3) else PRESENT)
        if not isinstance(flags, int):
            raise _damaged(path, f"the entry at {address:#x} has no number as flags")
        _check_flags(flags, address, path)
        if address % PAGE or address < end or not 0 < pages <= _ADDRESSES // PAGE:
            raise _damaged(path, f"the entry at {address:#x} overlaps another, or is empty")
        end = address + pages * PAGE
        if end > _ADDRESSES:
            raise _damaged(path, f"the entry at {address:#x} ends beyond every address")
        found.address.append(address)
        found.pages.append(pages)
        found.flags.append(flags & 0xFF)
        found.position.append(found.stored)
        if flags & PRESENT:
            found.stored += pages
    return found


def _check_flags(flags: int, address: int, path: str) -> None:
    """Raise FormatError for what no writer may set together, or nobody knows."""
    if flags & ~(PARENT | LAZY | PRESENT | _ALIGNED):
        raise _newer(path, f"the entry at {address:#x} has flags {flags:#x}")
    if (flags & PRESENT and flags & PARENT) or (flags & _ALIGNED and not flags & PRESENT):
        raise _damaged(path, f"the entry at {address:#x} has flags {flags:#x}")


def _refuse_compressed(folder: str) -> None:
    """Raise FormatError for a dump whose pages are not in its files as they were in memory.

    The inventory says so (field 15) since they can be compressed, which no release up to 4.2 does;
    `img_version` 3 (field 1) alone says nothing.
    """
    path = os.path.join(folder, "inventory.img")
    if not os.path.exists(path):
        return
    for message in _records(path, _INVENTORY):
        how = dict(fields(message)).get(15, 0)
        if how:
            known = {1: "page by page", 2: "in blocks"}
            way = known.get(how) if isinstance(how, int) else None
            cause = f"its pages are compressed {way or f'in a way {how!r} that nobody knows'}"
            raise FormatError(
                f"the dump in {folder} cannot be read",
                cause=f"inventory.img says that {cause}",
                cure="dump without compression, or have CRIU's crit decompress the images",
            )
        return


def file_names(folder: str) -> dict[int, str]:
    """Names by id, as areas have it; empty where the dump tells none."""
    found: dict[int, str] = {}
    memfds = {inode: name for _, inode, name in _memfds(folder)}
    path = os.path.join(folder, "files.img")
    if not os.path.exists(path):
        return found
    for message in _records(path, _FILES):
        entry = dict(fields(message))
        if isinstance(regular := entry.get(3), bytes):
            one = dict(fields(regular))
            found[_number(one, 1, path)] = _text(one.get(6, b""))
        elif isinstance(memfd := entry.get(20), bytes):
            one = dict(fields(memfd))
            found[_number(one, 1, path)] = f"/memfd:{memfds.get(_number(one, 5, path), '')}"
    return found


def memfd_pages(folder: str) -> dict[int, int]:
    """Of each memfd, by the id that areas have, the id of its page map (`shmem-ID`)."""
    by_inode = {inode: shmid for shmid, inode, _ in _memfds(folder)}
    found: dict[int, int] = {}
    path = os.path.join(folder, "files.img")
    if not by_inode or not os.path.exists(path):
        return found
    for message in _records(path, _FILES):
        memfd = dict(fields(message)).get(20)
        if isinstance(memfd, bytes):
            one = dict(fields(memfd))
            inode = _number(one, 5, path)
            if inode in by_inode:
                found[_number(one, 1, path)] = by_inode[inode]
    return found


def _memfds(folder: str) -> Iterator[tuple[int, int, str]]:
    """Of each memfd: the id of its pages, its inode, its name."""
    path = os.path.join(folder, "memfd.img")
    if os.path.exists(path):
        for message in _records(path, _MEMFD):
            one = dict(fields(message))
            yield _number(one, 5, path), _number(one, 7, path), _text(one.get(1, b""))


def _records(path: str, magic: int) -> Iterator[bytes]:
    """The messages of a file.  Raises FormatError where it is damaged or of another kind."""
    left = os.path.getsize(path)
    if left > _LARGEST:
        raise _damaged(path, f"it is larger than {_LARGEST} bytes")
    try:
        fd = open_file(path)
    except NoFileError as error:
        raise _damaged(path, error.strerror or "") from None
    with open(fd, "rb") as file:
        kind = struct.pack("<I", magic)
        begin = kind if magic == _INVENTORY else struct.pack("<I", _COMMON) + kind
        if file.read(len(begin)) != begin:
            raise _damaged(path, "it does not begin with the numbers of its kind")
        while head := file.read(4):
            if len(head) < 4:
                raise _damaged(path, "it ends within a record")
            (size,) = struct.unpack("<I", head)
            message = file.read(min(size, left))
            if len(message) < size:
                raise _damaged(path, "it ends within a record")
            yield message


def _number(entry: dict[int, int | bytes], number: int, path: str) -> int:
    value = entry.get(number)
    if not isinstance(value, int):
        raise _damaged(path, f"a record lacks its field {number}")
    return value


def _text(value: int | bytes) -> str:
    return value.decode(errors="replace")[:_NAME_MOST] if isinstance(value, bytes) else ""


def _newer(path: str, cause: str) -> FormatError:
    return FormatError(
        f"{path} is of a CRIU that is newer than this release of userfault knows",
        cause=cause,
        cure="dump without compression, by CRIU 4.2 or older",
    )


def _damaged(path: str, cause: str) -> FormatError:
    return FormatError(f"{path} is damaged", cause=cause, cure="dump again, or take another copy")
