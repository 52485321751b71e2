"""The little of CRIU's images that a restore of memory needs, read anew from their description.

Each file begins with two words that say what it is, and has records of a u32 length and a protobuf
message (criu.org, Images; images/pagemap.proto, images/pstree.proto).  Of a message only numbers
at its top are looked at.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator

import msgspec

from userfault.kernel.errors import UsageError

PAGE = 4096
_COMMON, _PAGEMAP, _PSTREE = 0x54564319, 0x56084025, 0x50273030
_PARENT, _LAZY, _PRESENT = 1, 2, 4


class Run(msgspec.Struct, frozen=True):
    """Pages from `address` on, `content` at that offset of the file of pages; whether a lazy
    restore leaves them out."""

    address: int
    pages: int
    content: int
    is_lazy: bool


class Task(msgspec.Struct, frozen=True):
    """A process of the tree; without runs it is one that had ended.  `file`: that of its pages."""

    pid: int
    file: str = ""
    runs: tuple[Run, ...] = ()


def tree(folder: str) -> list[Task]:
    """Every process.  Raises UsageError for what cannot be restored from this folder alone."""
    found = []
    for record in _records(os.path.join(folder, "pstree.img"), _PSTREE):
        pid = _numbers(record).get(1, 0)
        path = os.path.join(folder, f"pagemap-{pid}.img")
        found.append(_task(folder, path, pid) if os.path.exists(path) else Task(pid))
    return found


def _task(folder: str, path: str, pid: int) -> Task:
    records = _records(path, _PAGEMAP)
    pages_id = _numbers(next(records)).get(1, 0)
    runs, content = [], 0
    for record in records:
        entry = _numbers(record)
        count = entry.get(5, entry.get(2, 0))
        flags = entry.get(4, _PARENT if entry.get(3) else _PRESENT)
        if flags & _PARENT or not flags & _PRESENT:
            raise _unfit(path, "pages of it are in another dump", "name a full dump")
        if 6 in entry or flags & ~(_LAZY | _PRESENT):
            raise _unfit(path, "its pages are compressed", "dump without compression")
        runs.append(Run(entry.get(1, 0), count, content, bool(flags & _LAZY)))
        content += count * PAGE
    return Task(pid, os.path.join(folder, f"pages-{pages_id}.img"), tuple(runs))


def _records(path: str, kind: int) -> Iterator[bytes]:
    try:
        with open(path, "rb") as file:
            data = file.read()
    except OSError as error:
        raise _unfit(path, error.strerror or str(error), "name the folder of a dump") from None
    if data[:8] != struct.pack("<II", _COMMON, kind):
        raise _unfit(path, "it does not begin as such an image does", "name the folder of a dump")
    at = 8
    while at < len(data):
        (length,) = struct.unpack_from("<I", data, at)
        yield data[at + 4 : at + 4 + length]
        at += 4 + length


def _numbers(record: bytes) -> dict[int, int]:
    """The fields of a message that are numbers; of others, where they begin."""
    found: dict[int, int] = {}
    at = 0
    while at < len(record):
        key, at = _varint(record, at)
        field, kind = key >> 3, key & 7
        if kind == 0:
            found[field], at = _varint(record, at)
            continue
        found[field] = at
        if kind == 2:
            length, at = _varint(record, at)
            at += length
        else:
            at += {1: 8, 5: 4}[kind]
    return found


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return value, at


def _unfit(path: str, cause: str, cure: str) -> UsageError:
    return UsageError(f"{path} cannot be restored from", cause=cause, cure=cure)
