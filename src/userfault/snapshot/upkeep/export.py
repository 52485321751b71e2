"""A snapshot as a file again: raw, every page at its place, holes where it reads zero."""

from __future__ import annotations

import itertools
import os
from array import array
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

import msgspec

from userfault.snapshot.format.chunk import decode_exactly
from userfault.snapshot.format.runs import Kind
from userfault.snapshot.inputs.protocol import PAGE
from userfault.snapshot.serving.image import Image
from userfault.snapshot.serving.unpacked import Chunks
from userfault.snapshot.stores.newfile import NewFile

Progress = Callable[[int, int], None]

_THREADS = 4  # zstd, BLAKE3 and the writes leave the GIL
_WAITING = 4 * _THREADS  # chunks in work at once: what bounds the memory
_AHEAD = 32  # chunks that a remote store is asked for in advance
_WORD_PAGES = 64


class Exported(msgspec.Struct, frozen=True):
    """What was written: `length` of the file, and `data`, its bytes that are no holes."""

    path: str
    length: int
    data: int


class Piece(NamedTuple):
    """`pages` pages of a chunk from `slot` on are those of the image from `page` on."""

    page: int
    slot: int
    pages: int


def export_raw(
    image: Image, reader: Chunks, path: str, *, progress: Progress | None = None
) -> Exported:
    """Write the image to `path`, which appears when all of it is there.

    Raises StoreError, StoreFull, FormatError (a chunk is damaged), UsageError (no place for a
    file).
    """
    with NewFile(path) as file:
        data = write_pages(image, reader, file, 0, progress)
        file.commit()
    return Exported(path, image.length, data)


def write_pages(
    image: Image, reader: Chunks, file: NewFile, offset: int, progress: Progress | None = None
) -> int:
    """Write the pages of an image into a file of holes, from `offset` on; bytes that are data.

    Each chunk is read once, whatever the order of its pages.  `progress` is told pages.
    """
    try:
        os.ftruncate(file.fd, offset + image.length)
        words = _write_words(image, file.fd, offset)
        pieces = by_chunk(image)
        total = words + sum(piece.pages for _, group in pieces for piece in group)
        done = words
        for count in _each(image, reader, file.fd, offset, pieces):
            done += count
            if progress is not None:
                progress(done, total)
        os.ftruncate(file.fd, offset + image.length)  # the last page may be a part of one
    except OSError as error:
        raise file.failure(error) from None
    return min(total * PAGE, image.length)


def by_chunk(image: Image) -> list[tuple[int, list[Piece]]]:
    """The chunks that the image has pages of, each with these pages."""
    number, page, slot, count = array("I"), array("Q"), array("I"), array("I")
    for extent in image.extents(0, image.pages):
        if extent.kind is Kind.CHUNK:
            number.append(extent.chunk)
            page.append(extent.page)
            slot.append(extent.slot)
            count.append(extent.count)
    order = sorted(range(len(number)), key=number.__getitem__)
    grouped = itertools.groupby(order, key=number.__getitem__)
    return [
        (which, [Piece(page[at], slot[at], count[at]) for at in group]) for which, group in grouped
    ]


def raw_chunk(image: Image, reader: Chunks, number: int) -> bytes:
    """The pages of a chunk of the image.  Raises StoreError, FormatError."""
    digest, stored_length = _named(image, number)
    stored = reader.chunk(digest, stored_length, urgent=False)
    return decode_exactly(digest, stored, image.chunks.raw_length(number))


def _named(image: Image, number: int) -> tuple[bytes, int]:
    return image.chunks.digest(number), image.chunks.stored_length(number)


def _each(
    image: Image, reader: Chunks, fd: int, offset: int, pieces: list[tuple[int, list[Piece]]]
) -> Iterator[int]:
    """Write chunk by chunk, several at once; the pages that each was."""

    def write(number: int, group: list[Piece]) -> int:
        raw = memoryview(raw_chunk(image, reader, number))
        for piece in group:
            part = raw[piece.slot * PAGE : (piece.slot + piece.pages) * PAGE]
            write_all(fd, part, offset + piece.page * PAGE)
        return sum(piece.pages for piece in group)

    waiting: deque[Future[int]] = deque()
    with ThreadPoolExecutor(_THREADS, "userfault-export") as threads:
        try:
            for at, (number, group) in enumerate(pieces):
                if at % _AHEAD == 0:
                    reader.ahead(
                        [_named(image, which) for which, _ in pieces[at : at + 2 * _AHEAD]]
                    )
                if len(waiting) >= _WAITING:
                    yield waiting.popleft().result()
                waiting.append(threads.submit(write, number, group))
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


def _write_words(image: Image, fd: int, offset: int) -> int:
    """Write the pages that are one word over and over; how many they are."""
    written = 0
    for extent in image.extents(0, image.pages):
        if extent.kind is Kind.WORD:
            page = extent.word.to_bytes(8, "little") * (PAGE // 8)
            for at in range(0, extent.count, _WORD_PAGES):
                part = page * min(_WORD_PAGES, extent.count - at)
                write_all(fd, memoryview(part), offset + (extent.page + at) * PAGE)
            written += extent.count
    return written


def write_all(fd: int, data: memoryview, position: int) -> None:
    """pwrite(2) until all of it is written.  Raises OSError."""
    done = 0
    while done < len(data):
        done += os.pwrite(fd, data[done:], position + done)
