"""A client that does the same again and again: everything a pager has to follow, each byte judged.

Started by `every_call`; `argv`: a socket, the source's path.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import sys
import time
import traceback
from pathlib import Path

import userfault
from helpers.family import member
from stress import source
from stress.source import PAGE
from userfault import LazyMemory, Policy, lazy
from userfault.kernel.errors import PagerError
from userfault.linux import libc
from userfault.linux.parent import end_with_parent
from userfault.uapi import mman

PAGES = 64
KIND = 1
MEMORY = ("anon", "shmem")
_ROOM = mman.MAP_PRIVATE | mman.MAP_ANONYMOUS | mman.MAP_NORESERVE


def scenario(pager: userfault.Pager, path: str, kill: str) -> None:
    """Attach, faults, drops, moves, unmaps, a fork, the finish.  `kill`: whom to kill once."""
    for memory in MEMORY:
        policy = Policy(background=False)
        with lazy(
            path, memory=memory, writable=True, fork=True, pager=pager, policy=policy
        ) as made:
            _client(made, memory, pager, kill if memory == MEMORY[0] else "")


def _client(made: LazyMemory, memory: str, pager: userfault.Pager, kill: str) -> None:
    home = made.address
    away = libc.mmap(0, PAGES * PAGE, mman.PROT_NONE, _ROOM, -1, 0)
    for page in (0, 1, 2, 40):
        _check(home, page, _source(page))
    written = b"w" * PAGE
    libc.write_memory(home + 3 * PAGE, written)
    if kill == "replace":
        with contextlib.suppress(PagerError):  # its process was killed: the old family goes on
            pager.replace()
    elif kill:
        os.kill(member(pager, kill), signal.SIGKILL)
    advice = mman.MADV_REMOVE if memory == "shmem" else mman.MADV_DONTNEED
    libc.madvise(home + PAGE, PAGE, advice)  # filled
    libc.madvise(home + 5 * PAGE, 2 * PAGE, advice)  # never filled
    zeros = bytes(PAGE)
    for page in (1, 5, 6):
        _check(home, page, zeros)
    libc.mremap(home + 8 * PAGE, 3 * PAGE, 3 * PAGE, mman.MREMAP_MAYMOVE | mman.MREMAP_FIXED,
                away + 8 * PAGE)  # fmt: skip
    _check(away, 9, _source(9))
    libc.munmap(home + 12 * PAGE, 2 * PAGE)
    _check(home, 14, _source(14))
    child = os.fork()
    if not child:
        _child(home, away, written, zeros)
    status = os.waitpid(child, 0)[1]
    if status:
        raise AssertionError(f"the child ended with {status:#x}")
    _check(home, 22, _source(22))
    made.complete(timeout=60)
    gone = {1, 3, 5, 6, 8, 9, 10, 12, 13}
    for page in set(range(PAGES)) - gone:
        _check(home, page, _source(page))
    for page in (8, 9, 10):
        _check(away, page, _source(page))
    for page in (1, 5, 6):
        _check(home, page, zeros)
    _check(home, 3, written)
    libc.munmap(away, PAGES * PAGE)


def _child(home: int, away: int, written: bytes, zeros: bytes) -> None:
    code = 1
    try:
        _check(home, 20, _source(20))
        _check(home, 0, _source(0))
        _check(home, 3, written)
        _check(home, 5, zeros)
        _check(away, 8, _source(8))
        code = 0
    except AssertionError:
        traceback.print_exc()
    finally:
        os._exit(code)


def _source(page: int) -> bytes:
    return source.words(KIND, page, PAGE)


def _check(base: int, page: int, expected: bytes) -> None:
    found = libc.read_memory(base + page * PAGE, PAGE)
    if found != expected:
        raise AssertionError(f"page {page} holds {found[:8]!r}..., not {expected[:8]!r}...")


def main() -> None:
    """Answer `processes` and `run WHOM` until the other side is gone."""
    end_with_parent(os.getppid())
    channel = socket.socket(fileno=int(sys.argv[1]))
    path = Path(sys.argv[2])
    source.write_file(path, KIND, PAGES, PAGE)
    with userfault.Pager() as pager:
        while asked := channel.recv(100).decode().split(","):
            if asked[0] == "run":
                try:
                    scenario(pager, str(path), asked[1])
                    channel.send(json.dumps("").encode())
                except Exception as error:
                    channel.send(json.dumps(f"{type(error).__name__}: {error}").encode())
                    time.sleep(60)  # the mapping is of no use any more
            elif asked[0] == "processes":
                channel.send(json.dumps(pager.processes()).encode())
            else:
                return


if __name__ == "__main__":
    main()
