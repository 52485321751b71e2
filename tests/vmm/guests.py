"""Memory that guests walk over: page P begins with two words that tell which page it is."""

from __future__ import annotations

import mmap
import struct

from helpers.pages import PAGE
from userfault.vmm.program import Walk


def words(page: int) -> tuple[int, int]:
    return page * 0x9E3779B9 + 1, page ^ 0x5555


def image(pages: int) -> bytes:
    return b"".join(struct.pack("<2Q", *words(page)).ljust(PAGE, b".") for page in range(pages))


def filled(pages: int) -> mmap.mmap:
    """Anonymous memory that is there."""
    memory = mmap.mmap(-1, pages * PAGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    memory[:] = image(pages)
    return memory


def second_words(memory: bytes | mmap.mmap) -> list[int]:
    """The second word of each page: what walks write."""
    return [struct.unpack_from("<Q", memory, at + 8)[0] for at in range(0, len(memory), PAGE)]


def as_left_by(walk: Walk, left: int, second: int, page: int) -> set[int]:
    """What page P's second word can be when `left` steps of a walk in order are left.

    The page of the step that is under way may be written, or not yet.
    """
    last = left + (walk.count - page - left) % walk.pages

    def written(step: int) -> int:
        return step if step <= walk.count else second

    return {written(last)} | ({written(last + walk.pages)} if last == left else set())
