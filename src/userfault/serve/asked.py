"""What another program asks to have served: looked at, and put as a request to a pager.

Nothing that it says is taken on trust: that the descriptor is a userfaultfd, that the memory is the
program's own and registered, and of what it is made, is looked up.  Whoever has a pager serve such
memory asks with this, too, and so it loads nothing of what serves (`attaching.py` does).
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterable, Iterator

from userfault.kernel.errors import UsageError
from userfault.kernel.memtypes import BASE_PAGE, Memory, MemoryType, size_name
from userfault.linux import registered
from userfault.pager.core.policy import Policy
from userfault.pager.core.segment import Segment
from userfault.pager.drivers.clients.admission import check
from userfault.pager.drivers.wire.messages import Attach
from userfault.serve.peers import RefusedError
from userfault.source.spec import Spec, ZeroSpec
from userfault.wire.regions import Geometry, Region

_UFFD = "anon_inode:[userfaultfd]"


def asked_for(
    pid: int,
    geometry: Geometry,
    uffd: int,
    spec: Spec,
    policy: Policy,
    *,
    has_poison: bool,
    number: int = 1,
) -> Attach:
    """The request for memory of process `pid`, checked.  Raises RefusedError, ValueError."""
    check_uffd(uffd)
    memory, backing = _memory(pid, geometry)
    request = _request(geometry, memory, spec, policy, has_poison=has_poison, number=number)
    request.backing = backing
    check(request)
    return request


def shared(undo: contextlib.ExitStack, request: Attach) -> tuple[int, int]:
    """The states of a mapping, and what tells that it is finished; `undo` closes them again."""
    states = os.memfd_create("userfault-states", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    undo.callback(os.close, states)
    os.ftruncate(states, request.pages)
    fcntl.fcntl(states, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW)
    finished = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
    undo.callback(os.close, finished)
    return states, finished


def is_userfaultfd(fd: int) -> bool:
    """Believed where there is no /proc: the first read tells."""
    try:
        return os.readlink(f"/proc/self/fd/{fd}") == _UFFD
    except OSError:
        return True


def check_uffd(uffd: int) -> None:
    """Raise RefusedError for what is no userfaultfd, or none that is set up."""
    if not is_userfaultfd(uffd):
        raise RefusedError(
            "a client whose descriptor is no userfaultfd",
            cause=f"it is {os.readlink(f'/proc/self/fd/{uffd}')}",
            cure="the first descriptor of the message must be the userfaultfd",
        )
    try:
        registered.features(uffd)
    except ValueError as error:
        raise RefusedError(
            "a client whose userfaultfd is not set up",
            cause=str(error),
            cure="register the memory before the descriptor is sent",
        ) from None
    # What it shares with the client are the flags, too: reading must not wait.
    fcntl.fcntl(uffd, fcntl.F_SETFL, fcntl.fcntl(uffd, fcntl.F_GETFL) | os.O_NONBLOCK)


def _memory(pid: int, geometry: Geometry) -> tuple[Memory, str]:
    """What the regions are made of: registered memory of process `pid`, all of one kind; and, of
    shared memory, which it is.

    Where the process may not be looked at it is believed to be plain memory of that page size.
    """
    if pid <= 0:
        raise _not_its_own(pid, "the process has ended, or is not to be seen from here")
    first, last = geometry.regions[0], geometry.regions[-1]
    try:
        areas = registered.areas(pid, first.address, last.address + last.size)
        found = {kind for region in geometry.regions for kind in _covering(areas, region)}
    except PermissionError:
        return _believed(geometry.page_size), ""
    except (OSError, UsageError) as error:
        raise _not_its_own(pid, str(error)) from None
    if len(found) != 1:
        raise _not_its_own(pid, "its regions are of different kinds")
    memory = found.pop()
    if memory.page_size != geometry.page_size:
        raise _not_its_own(
            pid,
            f"its pages have {size_name(memory.page_size)}, and the message says"
            f" {size_name(geometry.page_size)}",
        )
    return memory, _backing(areas, geometry) if memory.shared else ""


def _backing(areas: Iterable[registered.Area], geometry: Geometry) -> str:
    """Which shared memory the regions show, and at which place of it the source begins.

    "" where they are not one file's, or lie in it otherwise than in the source.
    """
    found = set()
    for area in areas:
        mapping = area.mapping
        for region in geometry.regions:
            low = max(mapping.start, region.address)
            if low < min(mapping.end, region.address + region.size):
                in_file = mapping.offset + low - mapping.start
                begin = in_file - (region.offset + low - region.address)
                found.add(f"{mapping.device} {mapping.inode} {begin}")
    return found.pop() if len(found) == 1 else ""


def _covering(areas: list[registered.Area], region: Region) -> Iterator[Memory]:
    """The kinds of what is mapped there, if all of the region is, and registered."""
    behind, end = region.address, region.address + region.size
    for area in areas:
        if area.mapping.end <= behind:
            continue
        if area.mapping.start > behind or behind >= end or not area.registered:
            break
        behind = area.mapping.end
        yield area.memory
    if behind < end:
        raise UsageError(f"{behind:#x} is not registered with a userfaultfd")


def _not_its_own(pid: int, cause: str) -> RefusedError:
    return RefusedError(
        f"memory that is not process {pid}'s as the message says",
        cause=cause,
        cure="the process that connects must be the one whose memory it is",
    )


def _believed(page_size: int) -> Memory:
    kind = MemoryType.ANON if page_size == BASE_PAGE else MemoryType.HUGETLB
    return Memory(kind, page_size, False)


def _request(
    geometry: Geometry,
    memory: Memory,
    spec: Spec,
    policy: Policy,
    *,
    has_poison: bool,
    number: int,
) -> Attach:
    size = geometry.page_size
    regions = tuple(
        Segment(each.address, each.address + each.size, each.offset // size)
        for each in geometry.regions
    )
    one = len(regions) == 1 and regions[0].page == 0
    return Attach(
        number=number,
        start=regions[0].start,
        pages=geometry.length // size,
        page_size=size,
        shared=memory.shared,
        zeropage=memory.traits.zeropage,
        exists_is_ambiguous=memory.traits.exists_is_ambiguous,
        has_poison=has_poison,
        prepared=False,
        has_source=not isinstance(spec, ZeroSpec),
        has_memory=False,
        source=spec,
        policy=policy,
        regions=() if one else regions,
    )
