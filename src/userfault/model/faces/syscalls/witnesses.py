"""What is read from outside of the task: pagemap, PAGEMAP_SCAN, smaps."""

from __future__ import annotations

import errno
import struct

from userfault.kernel import calls
from userfault.kernel.calls import PAGE, Result
from userfault.model.errors import Errno
from userfault.model.faces.syscalls.table import perform, serves
from userfault.model.mm import scan
from userfault.model.process import Thread
from userfault.uapi import pagemap as pagemap_abi


@serves(calls.Pagemap)
def _pagemap(task: Thread, call: calls.Pagemap) -> Result:
    words = scan.words(task.process.mm, call.address, call.length)
    kept = [word & calls.PAGEMAP_BITS for word in words]
    return Result(data=struct.pack(f"<{len(kept)}Q", *kept))


@serves(calls.Survey)
def _survey(task: Thread, call: calls.Survey) -> Result:
    mm = task.process.mm
    pages = range(call.address, call.address + call.count * call.stride, call.stride)
    if call.stride == PAGE:
        words = scan.words(mm, call.address, call.count * PAGE)
    else:
        words = [scan.words(mm, page, PAGE)[0] for page in pages]
    words = [word & calls.PAGEMAP_BITS for word in words]
    contents = []
    for page, word in zip(pages, words, strict=True):
        if word & call.mask == pagemap_abi.PM_PRESENT:
            read = perform(task, calls.Read(page + call.offset, call.length))
            contents.append(read.data)
    return Result(data=struct.pack(f"<{len(words)}Q", *words) + b"".join(contents))


@serves(calls.PagemapScan)
def _pagemap_scan(task: Thread, call: calls.PagemapScan) -> Result:
    if call.size != pagemap_abi.pm_scan_arg.size:
        return _scan_refused(errno.EINVAL)
    argument = scan.ScanArgument(
        call.start,
        call.end,
        call.flags,
        call.category_mask,
        call.category_inverted,
        call.category_anyof_mask,
        call.return_mask,
        call.max_pages,
        call.regions,
    )
    try:
        done = scan.Scan(task.process.mm, argument)
    except Errno as refusal:
        return _scan_refused(refusal.code)
    data = calls.SCAN_END.struct.pack(done.walk_end)
    if done.errno:
        return Result(errno=done.errno, data=data)
    data += b"".join(pagemap_abi.page_region.struct.pack(*region) for region in done.regions)
    return Result(value=len(done.regions), data=data)


def _scan_refused(code: int) -> Result:
    """Before the walk: `walk_end` is as it went in."""
    return Result(errno=code, data=calls.SCAN_END.struct.pack(0))


@serves(calls.Smaps)
def _smaps(task: Thread, call: calls.Smaps) -> Result:
    return Result(vmas=scan.smaps(task.process.mm, call.start, call.end))
