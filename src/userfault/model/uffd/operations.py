"""What the commands of a userfaultfd do once their arguments are read, whoever makes the call.

Each checks its range and its mode bits in the kernel's order, and acts.  The fills and MOVE give
back how far they came; who called writes that down, and then has `conclude` wake and complain.
"""

from __future__ import annotations

import errno
from collections.abc import Callable

from userfault.model.errors import Errno
from userfault.model.mm.address_space import AddressSpace
from userfault.model.tasks.recorder import RECORD
from userfault.model.tasks.sched import Task
from userfault.model.uffd import mfill, move, pages, protect
from userfault.model.uffd.context import Context
from userfault.model.uffd.registration import check_range
from userfault.model.uffd.source import Job, Source
from userfault.uapi import userfaultfd as abi

# Bytes that were done, and the errno that ended it or 0.
Done = tuple[int, int]

DONTWAKE = abi.UFFDIO_ZEROPAGE_MODE_DONTWAKE  # the same bit in every fill and in MOVE
_WP = abi.UFFDIO_COPY_MODE_WP  # the same bit in CONTINUE

# Commands that a profile may lack.
_NEEDS = {
    abi.UFFDIO_POISON: 1 << abi._UFFDIO_POISON,
    abi.UFFDIO_MOVE: 1 << abi._UFFDIO_MOVE,
    abi.UFFDIO_RWPROTECT: 1 << abi._UFFDIO_RWPROTECT,
}


def check_known(context: Context, request: int) -> None:
    """EINVAL for a command that this version of the kernel lacks."""
    if _NEEDS.get(request, 0) & ~context.mm.profile.range_ioctls:
        raise Errno(errno.EINVAL)


def check_quiet(context: Context) -> None:
    """EAGAIN while an event is pending."""
    if context.is_changing:
        raise Errno(errno.EAGAIN)


def copy(
    task: Task,
    caller: AddressSpace,
    context: Context,
    dst: int,
    source: Source,
    length: int,
    mode: int,
) -> Done:
    """UFFDIO_COPY from an address of the caller, or from a buffer."""
    if isinstance(source, int) and context.mm.profile.checks_source:
        check_range(context.mm, source, length, aligned=False)
    check_range(context.mm, dst, length)
    if isinstance(source, int) and source + length >= 1 << 64:
        raise Errno(errno.EINVAL)
    if mode & ~(DONTWAKE | _WP):
        raise Errno(errno.EINVAL)
    job = Job(task, context, dst, length, bool(mode & _WP), source, caller)
    return mfill.fill(job, pages.COPY)


Fill = Callable[[Task, Context, int, int, int], Done]


def _filling(operation: pages.Operation, modes: int) -> Fill:
    """ZEROPAGE, CONTINUE and POISON: one shape."""

    def fill(task: Task, context: Context, start: int, length: int, mode: int) -> Done:
        check_range(context.mm, start, length)
        known = modes if context.mm.profile.continue_wp else DONTWAKE
        if mode & ~known:
            raise Errno(errno.EINVAL)
        job = Job(task, context, start, length, bool(mode & _WP))
        return mfill.fill(job, operation)

    return fill


zeropage = _filling(pages.ZEROPAGE, DONTWAKE)
continue_ = _filling(pages.CONTINUE, DONTWAKE | _WP)
poison = _filling(pages.POISON, DONTWAKE)


def move_pages(
    caller: AddressSpace, context: Context, dst: int, src: int, length: int, mode: int
) -> Done:
    """UFFDIO_MOVE within the owner, by the owner."""
    if caller is not context.mm:
        raise Errno(errno.EINVAL)
    check_range(context.mm, dst, length)
    check_range(context.mm, src, length)
    holes = abi.UFFDIO_MOVE_MODE_ALLOW_SRC_HOLES
    if mode & ~(DONTWAKE | holes):
        raise Errno(errno.EINVAL)
    return move.move(context, dst, src, length, allow_holes=bool(mode & holes))


def conclude(context: Context, dst: int, result: Done, mode: int) -> None:
    """Wake who waits for what was done; an Errno where that is not all of it."""
    done, code = result
    if done and not mode & DONTWAKE:
        if context.mm.sched.preemptive:
            context.mm.sched.point("fill.wake")
        context.wake(dst, done)
        if RECORD.on:
            RECORD.notes.append(("woken", context, dst, done))
    if code:
        raise Errno(errno.EAGAIN if done else code)


Protect = Callable[[Context, int, int, int], None]


def _protecting(action: Callable[..., None]) -> Protect:
    """WRITEPROTECT and RWPROTECT: one shape, the same two mode bits."""

    def command(context: Context, start: int, length: int, mode: int) -> None:
        check_range(context.mm, start, length)
        protecting = bool(mode & abi.UFFDIO_WRITEPROTECT_MODE_WP)
        quiet = bool(mode & abi.UFFDIO_WRITEPROTECT_MODE_DONTWAKE)
        if mode & ~3 or (protecting and quiet):
            raise Errno(errno.EINVAL)
        action(context, start, length, protect=protecting)
        if not protecting and not quiet:
            if context.mm.sched.preemptive:
                context.mm.sched.point("protect.wake")
            context.wake(start, length)

    return command


writeprotect = _protecting(protect.writeprotect)
rwprotect = _protecting(protect.rwprotect)


def wake(context: Context, start: int, length: int) -> None:
    """UFFDIO_WAKE."""
    check_range(context.mm, start, length)
    context.wake(start, length)
