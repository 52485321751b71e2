"""Memory that moves while it is filled: scenes for `helpers.child`.

In a process of one thread: nobody else may map anything where mremap has left a hole.
"""

from __future__ import annotations

import time
from pathlib import Path

from helpers.pages import PAGE, numbers
from pager_live.conftest import PAGES
from userfault import Policy, lazy
from userfault.linux import libc
from userfault.pager.core.states import FILLING, MISSING
from userfault.uapi import mman

_RESERVED = mman.MAP_PRIVATE | mman.MAP_ANONYMOUS | mman.MAP_NORESERVE
_UNFILLED = (bytes([MISSING]), bytes([FILLING]))


def moved_to_and_fro(image: str, memory: str) -> int:
    """Move memory to and fro until all is filled, page by page; how many pages are wrong then."""
    policy = Policy(background=True, chunk_bytes=PAGE)
    with lazy(Path(image), memory=memory, writable=True, policy=policy) as mapped:
        length = -(-len(mapped) // PAGE) * PAGE
        here, there = mapped.address, libc.mmap(0, length, mman.PROT_NONE, _RESERVED, -1, 0)
        while any(mapped.page_states.find(state) >= 0 for state in _UNFILLED):
            libc.mremap(here, length, length, mman.MREMAP_MAYMOVE | mman.MREMAP_FIXED, there)
            libc.mmap(here, length, mman.PROT_NONE, _RESERVED | mman.MAP_FIXED, -1, 0)
            here, there = there, here
            time.sleep(1e-4)  # so that it comes to an end on a busy machine, too
        seen = numbers(libc.read_memory(here, PAGES * PAGE))
        return sum(number != page for page, number in enumerate(seen, start=1))
