"""What the tests of inputs need: reading one whole, and dumps of CRIU made by hand."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterable
from pathlib import Path

from userfault.snapshot.inputs.protocol import PAGE, Holds, PageInput, Run

PARENT, LAZY, PRESENT = 1, 2, 4
ANON, FILE, SHARED_MEMFD, PRIVATE_MEMFD, GUARD = 0x201, 0x41, 0x4081, 0x4041, 1 << 16 | 1
_COMMON = 0x54564319
_MAGICS = {
    "pstree": 0x50273030,
    "pagemap": 0x56084025,
    "mm": 0x57492820,
    "files": 0x56303138,
    "memfd": 0x48453499,
    "inventory": 0x58313116,
}


def page(number: int) -> bytes:
    """A page that tells itself from all others."""
    return struct.pack("<Q", number + 1) + bytes([number % 251 + 1]) * (PAGE - 8)


def whole(pages: PageInput, at_once: int = 64) -> bytes:
    """All bytes of an input, read as its runs say; what is no data is zeros."""
    found = bytearray()
    for run in pages.runs():
        assert run.first * PAGE == len(found), "runs leave no gap"
        assert run.pages > 0
        if run.holds is not Holds.DATA:
            found += bytes(run.pages * PAGE)
            continue
        for first in range(run.first, run.first + run.pages, at_once):
            found += pages.read(first, min(at_once, run.first + run.pages - first))
    assert len(found) == -(-pages.length // PAGE) * PAGE
    return bytes(found[: pages.length])


def kinds(pages: PageInput) -> dict[Holds, int]:
    """How many pages hold what."""
    found = dict.fromkeys(Holds, 0)
    for run in pages.runs():
        found[run.holds] += run.pages
    return found


def runs(pages: PageInput) -> list[Run]:
    """All of them."""
    return list(pages.runs())


def message(*fields: tuple[int, int | bytes]) -> bytes:
    """A protobuf message of these fields."""
    parts = []
    for number, value in fields:
        if isinstance(value, int):
            parts += [_varint(number << 3), _varint(value)]
        else:
            parts += [_varint(number << 3 | 2), _varint(len(value)), value]
    return b"".join(parts)


def _varint(value: int) -> bytes:
    found = bytearray()
    while value >= 0x80:
        found.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*found, value])


def write_image(folder: Path, name: str, records: Iterable[bytes]) -> Path:
    """An image file of CRIU."""
    path = folder / f"{name}.img"
    magic = _MAGICS[name.partition("-")[0]]
    body = b"".join(struct.pack("<I", len(record)) + record for record in records)
    begin = (magic,) if name == "inventory" else (_COMMON, magic)
    path.write_bytes(struct.pack(f"<{len(begin)}I", *begin) + body)
    return path


def area(start: int, end: int, status: int = ANON, *, offset: int = 0, file: int = 0) -> bytes:
    """An area of a task."""
    flags = 0x1 if status == SHARED_MEMFD else 0x22
    values = (start, end, offset, file, 3, flags, status)
    return message(*enumerate(values, 1), (8, 1))


class Dump:
    """A folder as CRIU writes it, of one task or more."""

    def __init__(self, folder: Path, pids: Iterable[int] = (7,)) -> None:
        self.folder = folder
        folder.mkdir(exist_ok=True)
        pids = list(pids)
        write_image(folder, "pstree", [message((1, pid), (2, 0), (5, pid)) for pid in pids])

    def memory(self, pid: int, *areas: bytes, page_size: int = PAGE) -> None:
        """`mm-PID.img`."""
        vector = [(13, value) for value in (6, page_size, 0, 0)]
        write_image(
            self.folder, f"mm-{pid}", [message((12, 1), *vector, *((14, each) for each in areas))]
        )

    def pages(self, name: str, number: int, *entries: tuple[int, bytes | int, int]) -> None:
        """`pagemap-NAME.img`: address, pages (bytes, or a count), flags; and `pages-NUMBER.img`."""
        records = [message((1, number))]
        stored = b""
        for address, pages, flags in entries:
            count = pages if isinstance(pages, int) else len(pages) // PAGE
            records.append(message((1, address), (2, 0), (4, flags), (5, count)))
            stored += b"" if isinstance(pages, int) else pages
        write_image(self.folder, f"pagemap-{name}", records)
        if stored:
            (self.folder / f"pages-{number}.img").write_bytes(stored)

    def parent(self, folder: Path) -> None:
        """The dump before this one."""
        os.symlink(os.path.relpath(folder, self.folder), self.folder / "parent")
