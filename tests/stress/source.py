"""Sources of the stress test: pages of equal words (see toucher.c), by file and by function."""

from __future__ import annotations

import os
import struct
from pathlib import Path

PAGE = 4096
BAD_EVERY = 101  # of so many pages of the function one can never be read


def words(kind: int, page: int, page_size: int) -> bytes:
    """The source's bytes of one page."""
    return struct.pack("<Q", kind << 56 | page + 1) * (page_size // 8)


def write_file(path: Path, kind: int, pages: int, page_size: int) -> None:
    """A file of all pages, on disk: its pages can be dropped from the page cache."""
    with path.open("wb") as file:
        for page in range(pages):
            file.write(words(kind, page, page_size))
        file.flush()
        os.fsync(file.fileno())


def failing(offset: int, length: int, kind: int, marks: str) -> bytes:
    """A function that fails: for some pages always, for others every fourth time.

    `marks`: a file with a byte for each page, which outlives the processes that call this.
    """
    first, count = offset // PAGE, length // PAGE
    unlucky = False
    with open(marks, "r+b", buffering=0) as file:
        for page in range(first, first + count):
            if page % BAD_EVERY == BAD_EVERY // 2:
                raise ValueError(f"page {page} is broken")
            if page % 5 == 2:
                (calls,) = os.pread(file.fileno(), 1, page)
                os.pwrite(file.fileno(), bytes([(calls + 1) % 4]), page)
                unlucky = unlucky or not calls
    if unlucky:
        raise OSError("not this time")
    return b"".join(words(kind, page, PAGE) for page in range(first, first + count))
