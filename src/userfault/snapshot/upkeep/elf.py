"""A process image as an ELF core file, for gdb, crash and other readers of cores (core(5), elf(5)).

Layout: the ELF header, the program headers, the notes, and from the next page on the image as it
is, so that a region's bytes lie in the file as they lie in the image, with the same holes.

A region of memory is one PT_LOAD.  A region of a file is one PT_LOAD for each run of pages that
the image has, and one without bytes for each run that it has not: there a debugger reads the file,
as it does for the cores of the kernel.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from userfault.kernel.errors import UsageError
from userfault.snapshot.format.runs import Kind
from userfault.snapshot.inputs.protocol import PAGE, Region
from userfault.snapshot.serving.image import Image
from userfault.snapshot.serving.unpacked import Chunks
from userfault.snapshot.stores.newfile import NewFile
from userfault.snapshot.upkeep import elf_notes
from userfault.snapshot.upkeep.export import Exported, Progress, write_all, write_pages

_EHDR = struct.Struct("<16sHHIQQQIHHHHHH")
_PHDR = struct.Struct("<IIQQQQQQ")
_SHDR = struct.Struct("<IIQQQQIIQQ")
_CORE, _PT_LOAD, _PT_NOTE, _PN_XNUM = 4, 1, 4, 0xFFFF
# Names of /proc/PID/maps that look like paths, of memory that is no file to be read elsewhere
_MEMORY = ("/memfd:", "/dev/zero", "/SYSV", "/anon_hugepage", "/dev/shm/")


class Segment(NamedTuple):
    """A PT_LOAD: `length` bytes at `address`, at `offset` of the image unless it has no `bytes`."""

    address: int
    length: int
    offset: int
    flags: int
    has_bytes: bool


def export_elf(
    image: Image, reader: Chunks, path: str, *, progress: Progress | None = None
) -> Exported:
    """Write the core file `path`, which appears when all of it is there.

    Raises UsageError where the snapshot tells no addresses, else as `export_raw`.
    """
    if not image.regions:
        raise UsageError(
            f"snapshot {image.name!r} cannot become an ELF core",
            cause=f"it is an image of kind {image.manifest.kind}, which tells no addresses",
            cure="export it raw",
        )
    segments = [segment for region in image.regions for segment in _segments(image, region)]
    head = _head(
        segments, elf_notes.notes(image.regions, image.about), elf_notes.machine(image.about)
    )
    with NewFile(path) as file:
        data = write_pages(image, reader, file, len(head), progress)
        try:
            write_all(file.fd, memoryview(head), 0)
        except OSError as error:
            raise file.failure(error) from None
        file.commit()
    return Exported(path, len(head) + image.length, len(head) + data)


def _segments(image: Image, region: Region) -> Iterator[Segment]:
    """One; of a file, as many as the image has runs of its pages."""
    # PROT_READ 1, WRITE 2, EXEC 4; PF_R 4, W 2, X 1
    flags = (region.protection & 1) << 2 | region.protection & 2 | region.protection >> 2 & 1
    if not region.name.startswith("/") or region.name.startswith(_MEMORY):
        yield Segment(region.start, region.length, region.offset, flags, True)
        return
    begun = at = region.offset
    had = None
    for extent in image.extents(region.offset // PAGE, region.length // PAGE):
        has = extent.kind is not Kind.HOLE
        if had is not None and has != had:
            yield Segment(region.start + begun - region.offset, at - begun, begun, flags, had)
            begun = at
        had = has
        at += extent.count * PAGE
    if had is not None:
        yield Segment(region.start + begun - region.offset, at - begun, begun, flags, had)


def _head(segments: Sequence[Segment], notes: bytes, machine: int) -> bytes:
    """Everything before the image, filled up to whole pages."""
    count = 1 + len(segments)
    many = count >= _PN_XNUM  # then section header 0 has the number (elf(5))
    notes_at = _EHDR.size + count * _PHDR.size + (_SHDR.size if many else 0)
    size = -(-(notes_at + len(notes)) // PAGE) * PAGE
    ident = (
        b"\x7fELF" + bytes([2, 1, 1, 0]) + bytes(8)
    )  # 64-bit, little endian, version 1, System V
    headers = [
        _EHDR.pack(
            ident, _CORE, machine, 1, 0, _EHDR.size, _EHDR.size + count * _PHDR.size if many else 0,
            0, _EHDR.size, _PHDR.size, _PN_XNUM if many else count, _SHDR.size if many else 0,
            1 if many else 0, 0,
        ),
        _PHDR.pack(_PT_NOTE, 0, notes_at, 0, 0, len(notes), 0, 4),
    ]  # fmt: skip
    for segment in segments:
        offset, stored = size + segment.offset, segment.length
        if not segment.has_bytes:
            offset = stored = 0
        headers.append(
            _PHDR.pack(
                _PT_LOAD, segment.flags, offset, segment.address, 0, stored, segment.length, PAGE
            )
        )
    if many:
        headers.append(_SHDR.pack(0, 0, 0, 0, 0, 0, 0, count, 0, 0))
    return b"".join((*headers, notes)).ljust(size, b"\0")
