"""The one loop that COPY, ZEROPAGE, CONTINUE and POISON share, for every memory type.

One page at a time, by an operation of `uffd.pages`, or by the type itself where a design lets it.
The mapping is locked throughout, but for the one place where a COPY's source has to be faulted
in: there it is let go, and everything is looked at again afterwards.
"""

from __future__ import annotations

import errno

from userfault.model.errors import ContractBreach, Errno, Refused
from userfault.model.mm import vma as vmas
from userfault.model.mm.address_space import AddressSpace
from userfault.model.mm.vma import Vma
from userfault.model.uffd.pages import CONTINUE, ZEROPAGE, Operation
from userfault.model.uffd.source import Job, SourceMissing, copied_in, identity, remembered


def fill(job: Job, operation: Operation) -> tuple[int, int]:
    """Run `operation` over the range: (bytes done, errno that ended it or 0).

    Raises Errno where the result field stays untouched (ESRCH).
    """
    with job.context.space() as mm:
        return _fill(job, operation, mm)


def _fill(job: Job, operation: Operation, mm: AddressSpace) -> tuple[int, int]:
    sched = mm.sched
    done = 0
    code = 0
    try:
        vma = _destination(job, operation)
        job.asked = identity(vma, job.dst)
        job.remembered = remembered(vma)
        step = 1 << vma.shift
        run = vma.ops.runs.get(operation.name) or operation.page
        while done < job.length:
            if done and sched.preemptive:
                sched.point("fill.page")
            if job.task.killed:
                raise Errno(errno.EINTR)
            if mm.is_huge(job.dst + done):
                raise Errno(errno.EEXIST)  # before anything else is looked at
            mm.table.build(job.dst + done, vma.shift)  # whatever becomes of the page
            try:
                run(job, vma, job.dst + done)
            except SourceMissing:
                vma = _fault_source_in(job, operation, done, step)
                run = vma.ops.runs.get(operation.name) or operation.page
                continue
            job.content = None
            done += step
    except Errno as stop:
        code = stop.code
    except Refused as refusal:
        code = refusal.code
    except ContractBreach as breach:
        mm.spaces.breaches.append(breach)
        raise
    finally:
        _leave(job)
    return done, code


def _leave(job: Job) -> None:
    """Give up what `_destination` took, as far as it came."""
    if job.quiet:
        job.quiet = False
        job.context.map_changing.read_done()
    if job.vma is not None:
        job.mm.leave(job.vma)
        job.vma = None


def _destination(job: Job, operation: Operation) -> Vma:
    """The mapping to fill, locked, after every check that does not look at a page."""
    mm = job.mm
    prepares_first = mm.profile.fill_prepares_first
    vma = job.vma = mm.enter(job.dst)
    if not prepares_first and job.context.is_changing:
        raise Errno(errno.EAGAIN)
    if prepares_first and vma is not None and not vma.shared:
        mm.prepare_private(vma)
    if vma is None or job.dst + job.length > vma.end or vma.context is None:
        raise Errno(errno.ENOENT)
    if mm.vma_locks:
        job.context.map_changing.read_at_once()
        job.quiet = True
    if job.context.is_changing:
        raise Errno(errno.EAGAIN)
    if job.wp and not vma.modes & vmas.WP:
        raise Errno(errno.EINVAL)
    if (job.dst | job.length) & ((1 << vma.shift) - 1):
        raise Errno(errno.EINVAL)
    ops = vma.ops
    # hugetlb has a loop of its own that asks for no table: it serves SysV segments on 7.x, too.
    if ops.uffd.can_userfault is None and not ops.pool:
        raise Errno(errno.EINVAL)
    if operation is ZEROPAGE and not ops.zeropage:
        raise Errno(errno.EINVAL)
    if operation is CONTINUE and not ops.can_continue:
        raise Errno(errno.EINVAL)
    if not vma.shared:
        mm.prepare_private(vma)
    return vma


def _fault_source_in(job: Job, operation: Operation, done: int, step: int) -> Vma:
    """Copy the next page with faults allowed and no lock held; the destination once more."""
    mm = job.mm
    assert isinstance(job.source, int)
    _leave(job)
    if mm.sched.preemptive:
        mm.sched.point("copy.user")
    content = copied_in(job.task, job.caller, job.source + done, step)
    vma = _destination(job, operation)
    if 1 << vma.shift != step:
        raise Errno(errno.EAGAIN)
    checks = mm.profile.checks_after_retry and "copy-retry-unchecked" not in mm.config.bugs
    if checks and remembered(vma) != job.remembered:
        raise Errno(errno.EAGAIN)
    job.content = content
    return vma
