"""Scenes of memory that is not empty when it is made, for `helpers.child`."""

from __future__ import annotations

import ctypes
import os
import resource
from pathlib import Path

from helpers.child import become_nobody
from helpers.pages import PAGE, pages
from userfault import Policy, UserfaultError, lazy, zero
from userfault.kernel.memtypes import MIB
from userfault.kernel.memtypes import memory as named_memory
from userfault.linux import libc as calls
from userfault.linux.empty import what_is_there
from userfault.linux.memory import prepare
from userfault.uapi import mman

FUTURE = 2  # MCL_FUTURE, mlockall(2)
_CLONE_NEWNS, _MNT_DETACH = 0x20000, 2
_libc = ctypes.CDLL(None, use_errno=True)


def lock_everything(flags: int) -> None:
    """mlockall(2)."""
    if _libc.mlockall(flags):
        raise OSError(ctypes.get_errno(), "mlockall")


def plain(image: str, memory: str) -> str:
    """Read all of it: "right", or the refusal."""
    try:
        with lazy(image, memory=memory, policy=Policy(background=False)) as mapped:
            return _judged(bytes(mapped), Path(image).read_bytes())
    except UserfaultError as error:
        return str(error)


def locked(image: str, memory: str, flags: int, writable: bool) -> str:
    """The same in a program that has locked its memory."""
    want = Path(image).read_bytes()
    lock_everything(flags)
    with lazy(image, memory=memory, writable=writable) as mapped:
        mapped.complete(timeout=60)
        return _judged(bytes(mapped), want)


def locked_bytes(image: str, flags: int) -> tuple[int, int]:
    """How many bytes of the mapping are locked, by smaps, and how many were filled."""
    lock_everything(flags)
    with lazy(image, policy=Policy(background=False)) as mapped:
        for page in range(0, 64, 2):
            calls.read_memory(mapped.address + page * PAGE, 1)
        filled = mapped.statistics().states["present"] * PAGE
        inside, found = False, 0
        for line in Path("/proc/self/smaps").read_text().splitlines():
            name, *rest = line.split()
            if not name.endswith(":"):
                inside = int(name.partition("-")[0], 16) == mapped.address
            elif inside and name == "Locked:":
                found = int(rest[0]) * 1024
        return found, filled


def locked_fork(image: str, memory: str, flags: int) -> int:
    """How a forked child of a locked program ends that compares every byte."""
    want = Path(image).read_bytes()
    lock_everything(flags)
    with lazy(image, memory=memory, fork=True, policy=Policy(background=False)) as mapped:
        child = os.fork()
        if not child:
            os._exit(calls.read_memory(mapped.address, len(mapped)) != want)
        return os.waitpid(child, 0)[1]


def locked_beyond_the_limit() -> str:
    """Without the right to lock: what the refusal says."""
    limit = min(resource.getrlimit(resource.RLIMIT_MEMLOCK)[1] % 2**63, 32 * MIB)
    lock_everything(FUTURE)
    become_nobody()
    resource.setrlimit(resource.RLIMIT_MEMLOCK, (limit, limit))
    try:
        lazy(zero(limit + MIB))
    except UserfaultError as error:
        return str(error)
    return "nothing was refused"


def locked_prepared(memory: str, flags: int) -> str:
    """Memory that is its own source, in a locked program."""
    content = pages(1, 64)
    lock_everything(flags)
    own = os.memfd_create("prepared")
    os.write(own, content)
    with lazy(own, memory=memory, prepared=True) as mapped:
        mapped.complete(timeout=60)
        return _judged(bytes(mapped) + os.pread(own, len(content), 0), content * 2)


def intruded(image: str, memory: str, same: bool) -> str:
    """Page 0 is filled behind the pager's back; then all is asked for."""
    want = Path(image).read_bytes()
    with lazy(image, memory=memory, policy=Policy(background=False)) as mapped:
        uffd = mapped._parts.uffd
        assert uffd is not None
        page = want[: mapped.page_size]
        with calls.Pinned(page if same else page[1:] + b"!") as pinned:
            uffd.copy(mapped.address, pinned.address, pinned.length)
        mapped.complete(timeout=30)
        return _judged(bytes(mapped), want)


def seen_without_proc(memory: str) -> list[str]:
    """What is seen of 16 MiB, untouched and with one page touched, where there is no /proc."""
    assert not _libc.unshare(_CLONE_NEWNS)
    assert not _libc.mount(b"none", b"/", None, 0x44000, None)  # MS_REC | MS_PRIVATE
    assert not _libc.umount2(b"/proc", _MNT_DETACH)
    recipe = prepare(named_memory(memory), 16 * MIB)
    access = mman.PROT_READ | mman.PROT_WRITE
    address = calls.mmap(0, recipe.length, access, recipe.flags, recipe.fd, 0)
    seen = []
    for _ in range(2):
        there = what_is_there(address, recipe.length, recipe.memory.page_size, recipe.backing)
        seen.append(there.partition(" mapped")[0])
        calls.write_memory(address + 9 * PAGE, b"x")
    return seen


def _judged(got: bytes, want: bytes) -> str:
    wrong = [at for at in range(0, len(want), PAGE) if got[at : at + PAGE] != want[at : at + PAGE]]
    return f"{len(wrong)} pages are wrong, from {wrong[0]:#x} on" if wrong else "right"
