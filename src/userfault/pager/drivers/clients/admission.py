"""What a client asks for is looked at before anything is done with it.

Nothing of a request is taken on trust: not a number, not the kind of a descriptor, not that its
sender has still the rights that the pager was made with.
"""

from __future__ import annotations

import contextlib
import fcntl
import mmap
import os
import stat

from userfault.kernel.errors import PagerError, UserfaultError
from userfault.kernel.memtypes import BASE_PAGE, round_up
from userfault.linux import pidfd, rights
from userfault.linux.pidfd import Sender
from userfault.linux.refused import cause_of, cure_of
from userfault.pager.drivers.processes.texts import clipped
from userfault.pager.drivers.record.records import Descriptors
from userfault.pager.drivers.wire import messages
from userfault.pager.drivers.wire.messages import Attach, Load, Prefetch
from userfault.snapshot.working_sets.place import HEAD_BYTES, TIE_BYTES
from userfault.source.spec import FileSpec, FunctionSpec, PagesSpec, StoreSpec, ZeroSpec
from userfault.uapi.mman import F_SEAL_FUTURE_WRITE

_HIGHEST = 1 << 57  # no user address lies above (x86-64 with five levels)
_F_GET_SEALS, _F_SEAL_SHRINK, _F_SEAL_WRITE = 1034, 0x2, 0x8  # linux/fcntl.h
_SEALED = _F_SEAL_SHRINK | _F_SEAL_WRITE
# What may come beside the first five descriptors, in this order, if `Attach.has_...` says so.
_OPTIONAL = ("source", "memory", "signals", "trace", "spill", "course", "touches")
_SEALED_COPY = _F_SEAL_SHRINK | F_SEAL_FUTURE_WRITE


def entitled(request: messages.Request, sender: Sender | None, client: int) -> None:
    """Raise PagerError unless `sender` may ask that of a pager of process `client`.

    What works on descriptors that came with the mapping is for the client, whatever rights it has
    by now.  What the pager does in its own name (it starts processes, opens stores) is for a client
    that could do the same itself.
    """
    if sender is None:
        return  # a socket that does not tell: not one of `Pager`
    if client and sender.pid != client:  # without /proc it is not to be seen who the client is
        raise PagerError(
            "the pager serves another process",
            cause=f"the request came from process {sender.pid}",
            cure="make a Pager() in the process that uses it",
        )
    what = _in_our_name(request)
    lost = what and rights.lost_by(sender)
    if lost:
        raise PagerError(
            f"the pager does not {what} for a process with fewer rights than it has itself",
            cause=lost,
            cure="make a new Pager() now: it has the rights that this process has kept",
        )


def _in_our_name(request: messages.Request) -> str:
    if isinstance(request, messages.Replace):
        return "start processes"
    if isinstance(request, messages.Admit):
        return "serve other processes"
    if isinstance(request, Attach | Load) and isinstance(request.source, FunctionSpec):
        return "call functions"
    if isinstance(request, Attach) and isinstance(request.source, StoreSpec):
        return "open stores"
    if isinstance(request, Attach) and request.recording is not None:
        return "keep working sets"
    return ""


def check(request: Attach) -> None:
    """Raise ValueError for a mapping that cannot be."""
    size, pages = request.page_size, request.pages
    _hold(0 < request.number < _HIGHEST, "its number")
    _hold(size >= mmap.PAGESIZE and not size & (size - 1), "its page size")
    _hold(pages > 0 and 0 <= request.start <= _HIGHEST - pages * size, "its range")
    _hold(request.start % size == 0, "its start")
    _check_regions(request)
    spec = request.source
    _hold(spec.length > 0 and round_up(spec.length, size) == pages * size, "its length")
    if isinstance(spec, ZeroSpec):
        _hold(not request.has_source, "a descriptor of zeros")
    elif isinstance(spec, FunctionSpec):
        _hold(request.has_source == (spec.stored > 0), "the arguments of its function")
    else:
        _hold(request.has_source, "a source without a descriptor")
    if isinstance(spec, FileSpec):
        _hold(spec.offset >= 0 and spec.offset % mmap.PAGESIZE == 0, "the offset of its source")
        _hold(spec.offset + spec.length <= spec.size, "the size of its source")
    if request.has_touches:
        _hold(request.recording is not None, "notes of which nothing is to be made")
    if request.recording is not None:
        job = request.recording
        right = job.pages == pages and job.page_size == size and len(job.tie) == TIE_BYTES
        _hold(right, "what is to be recorded")
    if request.prepared:
        _hold(request.has_memory, "prepared memory without a descriptor")
    if request.evicts:
        whole = request.has_memory and request.shared and not request.prepared
        _hold(whole, "a budget for memory that no page can be taken out of")
        _hold((request.policy.resident_bytes or 0) >= size, "its budget")
    _hold(request.evicts or not request.has_spill, "a spill file without a budget")
    if request.copy:
        private = request.has_memory and not request.shared and not request.prepared
        _hold(private and size == BASE_PAGE, "memory over a shared copy")
        _hold(isinstance(spec, StoreSpec), "a shared copy of what is no snapshot")
        _hold(0 < request.copy <= _HIGHEST - pages * size, "the address of a shared copy")


def _check_regions(request: Attach) -> None:
    """Where the pages are shown: whole pages of the mapping, none of them twice."""
    size = request.page_size
    shown, behind = [], 0
    for each in sorted(request.regions, key=lambda region: region.start):
        _hold(each.start % size == each.end % size == 0, "a region that is no pages")
        _hold(behind <= each.start < each.end <= _HIGHEST, "the addresses of a region")
        behind = each.end
        shown.append((each.page, each.page + (each.end - each.start) // size))
    behind = 0
    for first, last in sorted(shown):
        _hold(behind <= first < last <= request.pages, "the pages of a region")
        behind = last


def check_load(request: Load, fds: list[int]) -> None:
    """Raise ValueError for a function that cannot be loaded."""
    _hold(0 < request.number < _HIGHEST, "its number")
    _hold(0 < request.slot_bytes < _HIGHEST, "the size of its answers")
    _hold(len(fds) == (request.source.stored > 0), "the arguments of its function")


def check_admission(fds: list[int]) -> None:
    """Raise ValueError for what does not belong to a request to serve another process."""
    _hold(len(fds) == 2, "the number of its descriptors")
    _hold(stat.S_ISSOCK(os.fstat(fds[0]).st_mode), "a channel that is no socket")
    _hold(pidfd.pid_of(fds[1]) > 0, "a process that has ended, or is not to be seen")


def sorted_out(attach: Attach, fds: list[int]) -> Descriptors:
    """The descriptors that came with `attach`, by name; raises ValueError when some are missing."""
    named = [name for name in _OPTIONAL if getattr(attach, f"has_{name}")]
    expected = 5 + len(named) + (3 if attach.copy else 0)
    if len(fds) != expected:
        raise ValueError(f"{len(fds)} descriptors came where {expected} belong")
    found = Descriptors(*fds[:5])
    more = iter(fds[5:])
    for name in named:
        setattr(found, name, next(more))
    if attach.copy:
        found.filler, found.marks, found.claim = more
    return found


def check_descriptors(request: Attach, held: Descriptors) -> None:
    """Raise ValueError where a descriptor is not what it should be.

    Reads and writes must not block, and no mapped file may shrink under the pager's hands.
    """
    _hold(_is(held.uffd, "[userfaultfd]") and _nonblocking(held.uffd), "the userfaultfd")
    _hold(_is(held.finished, "[eventfd]") and _nonblocking(held.finished), "the eventfd")
    for line in (held.lifeline_read, held.lifeline_write):
        _hold(stat.S_ISFIFO(os.fstat(line).st_mode), "the life line")
    _hold(os.fstat(held.states).st_size == request.pages, "the size of the states")
    _hold(_sealed(held.states, _F_SEAL_SHRINK), "states that may shrink")
    if held.signals >= 0:  # it is read in the loop, which must not wait
        _hold(_sealed(held.signals, 0), "a log of signals that is no memory")
    if isinstance(request.source, StoreSpec):  # the table of its pages is mapped
        _hold(_sealed(held.source, _SEALED), "a table of a snapshot that may change")
    if held.trace >= 0:
        appends = fcntl.fcntl(held.trace, fcntl.F_GETFL) & os.O_APPEND
        _hold(stat.S_ISREG(os.fstat(held.trace).st_mode) and appends, "the file of its trace")
    if held.spill >= 0:  # no pipe, no socket: it is read and written in the loop
        _hold(stat.S_ISREG(os.fstat(held.spill).st_mode), "the kind of the spill file")
    if held.course >= 0:
        _hold(_sealed(held.course, _SEALED), "a course that may change")
    if held.touches >= 0:
        size = os.fstat(held.touches).st_size
        _hold(_sealed(held.touches, _F_SEAL_SHRINK), "notes that may shrink")
        _hold(size == HEAD_BYTES + request.pages, "the size of the notes")
    if request.copy:
        _check_copy(request, held)
    if isinstance(request.source, PagesSpec):  # threads alone read from it
        _hold(stat.S_ISSOCK(os.fstat(held.source).st_mode), "what gets pages from another host")
    elif held.source >= 0:
        mode = os.fstat(held.source).st_mode
        _hold(stat.S_ISREG(mode) or stat.S_ISBLK(mode), "the kind of the source's file")


def _check_copy(request: Attach, held: Descriptors) -> None:
    """Raise ValueError unless it is a shared copy that nobody can change."""
    _hold(_is(held.filler, "[userfaultfd]") and _nonblocking(held.filler), "the copy's filler")
    _hold(os.fstat(held.memory).st_size == request.pages * request.page_size, "the copy's size")
    _hold(_sealed(held.memory, _SEALED_COPY), "a copy that others may write")
    _hold(os.fstat(held.marks).st_size == request.pages, "the size of the copy's marks")
    _hold(_sealed(held.marks, _F_SEAL_SHRINK), "marks that may shrink")
    _hold(stat.S_ISSOCK(os.fstat(held.claim).st_mode), "the claim on a copy")


def in_range(request: Prefetch, pages: int) -> None:
    """Raise PagerError for pages that the mapping does not have."""
    if not 0 <= request.page < request.page + request.count <= pages:
        raise PagerError(
            "the pager cannot prefetch that",
            cause=f"{request.count} pages from {request.page} on of a mapping of {pages}",
            cure="prefetch(start, stop) takes byte offsets within the memory",
        )


def refused(error: Exception) -> messages.Refused:
    """The reply that says why."""
    if isinstance(error, UserfaultError):
        return messages.Refused(clipped(error.what), clipped(error.cause), clipped(error.cure))
    if isinstance(error, OSError):
        what = "the pager cannot take the request"
        return messages.Refused(what, cause_of(error), cure_of(error))
    cause = str(error) if isinstance(error, ValueError) else repr(error)
    return messages.Refused("the pager cannot take the request", clipped(cause), messages.VERSIONS)


def _hold(right: object, what: str) -> None:
    if not right:
        raise ValueError(f"{what} makes no sense")


def _is(fd: int, kind: str) -> bool:
    """Whether a descriptor is an anonymous inode of that kind; believed where there is no /proc."""
    found = f"anon_inode:{kind}"
    with contextlib.suppress(OSError):
        found = os.readlink(f"/proc/self/fd/{fd}")
    return found == f"anon_inode:{kind}"


def _sealed(fd: int, seals: int) -> bool:
    """Whether it is a memfd that has these seals (memfd_create(2), fcntl(2))."""
    with contextlib.suppress(OSError):
        return fcntl.fcntl(fd, _F_GET_SEALS) & seals == seals
    return False


def _nonblocking(fd: int) -> bool:
    return bool(fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_NONBLOCK)
