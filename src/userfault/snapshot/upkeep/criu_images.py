"""The memory of a process tree as the image files of a dump again: for `criu restore`.

Of each page map `pagemap-NAME.img`, and `pages-N.img` with its pages one after the other.  They go
beside the other images of the dump, which CRIU keeps where it ran.  For a lazy restore the pages
that it leaves out are holes of the file: it needs the others, which it restores by itself, and to
know of all.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator, Sequence

from userfault.kernel.errors import UsageError
from userfault.snapshot.format.page_maps import SENT, SENT_WHOLE, PageMaps, map_of
from userfault.snapshot.inputs.criu_images import LAZY, PRESENT
from userfault.snapshot.inputs.protocol import PAGE, Region
from userfault.snapshot.serving.image import Image
from userfault.snapshot.serving.source import SnapshotSource
from userfault.snapshot.stores.newfile import NewFile
from userfault.snapshot.upkeep.export import Exported, Progress, write_all

_MAGIC = struct.pack("<II", 0x54564319, 0x56084025)
_LENGTH = struct.Struct("<I")
_BLOCK = 1 << 20
_ZEROS = bytes(PAGE)
_OLD_MOST = (1 << 32) - 1  # of the field that releases up to 4.1.1 read


def export_criu(
    image: Image,
    source: SnapshotSource,
    folder: str,
    *,
    lazy: bool = False,
    progress: Progress | None = None,
) -> Exported:
    """Write the image files into `folder`.  `lazy`: without the pages that a lazy restore asks for.

    Raises UsageError where the snapshot has not all pages of a process tree, or the folder is none
    or has such files; else as `export_raw`.
    """
    maps = PageMaps(image.regions)
    names = list(maps)
    _check(image, names, folder)
    done = data = 0
    for number, name in enumerate(names, 1):
        regions = maps.regions(name)
        with NewFile(os.path.join(folder, f"pages-{number}.img")) as file:
            try:
                for length, written in _pages(source, regions, file.fd, lazy=lazy):
                    done, data = done + length, data + written
                    if progress is not None:
                        progress(done // PAGE, image.pages)
            except OSError as error:
                raise file.failure(error) from None
            file.commit()
        with NewFile(os.path.join(folder, f"pagemap-{name}.img")) as file:
            write_all(file.fd, memoryview(_page_map(number, regions)), 0)
            file.commit()
    return Exported(folder, done, data)


def _check(image: Image, names: Sequence[str], folder: str) -> None:
    if not names or image.about.get(SENT) != SENT_WHOLE:
        raise UsageError(
            f"snapshot {image.name!r} cannot become images of CRIU",
            cause="it has only the pages that a lazy restore asks for"
            if names
            else "it is not the memory of a process tree that a dump has sent",
            cure="restore from the images that it was packed from" if names else "export it raw",
        )
    if not os.path.isdir(folder):
        raise UsageError(
            f"{folder} is no folder",
            cause="the images of a dump are several files",
            cure="name the folder that has the other images of the dump",
        )
    for name in (f"pagemap-{names[0]}.img", "pages-1.img"):
        if os.path.lexists(os.path.join(folder, name)):
            raise UsageError(
                f"{folder} has the memory of a dump already",
                cause=f"there is a file {name}, of another dump perhaps",
                cure="name the folder that has the other images of the dump, or remove those",
            )


def _pages(
    source: SnapshotSource, regions: Sequence[Region], fd: int, *, lazy: bool
) -> Iterator[tuple[int, int]]:
    """Write them; of each piece how long it is, and what of it is no hole."""
    position = 0
    for region in regions:
        told = map_of(region.name)
        if lazy and told is not None and told[1]:
            position += region.length
            yield region.length, 0
            continue
        for at in range(0, region.length, _BLOCK):
            length = min(_BLOCK, region.length - at)
            piece = source.read(region.offset + at, length, urgent=False)
            yield length, _write(fd, piece, position)
            position += length
    os.ftruncate(fd, position)


def _write(fd: int, piece: memoryview, position: int) -> int:
    written = 0
    for at in range(0, len(piece), PAGE):
        page = piece[at : at + PAGE]
        if page != _ZEROS:
            write_all(fd, page, position + at)
            written += PAGE
    return written


def _page_map(number: int, regions: Sequence[Region]) -> bytes:
    """The records of the file: first which pages-N.img it is, then a range each."""
    records = [_message((1, number))]
    for region in regions:
        told = map_of(region.name)
        flags = PRESENT | (LAZY if told is not None and told[1] else 0)
        pages = region.length // PAGE
        old = min(pages, _OLD_MOST)
        records.append(_message((1, region.start), (2, old), (4, flags), (5, pages)))
    return _MAGIC + b"".join(_LENGTH.pack(len(each)) + each for each in records)


def _message(*fields: tuple[int, int]) -> bytes:
    """A protobuf message of numbers."""
    return b"".join(_varint(number << 3) + _varint(value) for number, value in fields)


def _varint(value: int) -> bytes:
    found = bytearray()
    while value >= 0x80:
        found.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*found, value])
