"""A recording becomes a set, in a process of its own: the pager has faults to serve.

It gets the notes as memory that both have, and what to make of them.  It outlives a pager whose
last client has gone; that it is killed costs the recording, and no more.
"""

from __future__ import annotations

import logging
import mmap
import re
import socket
import sys

import msgspec
from pyroaring import BitMap

from userfault.kernel.errors import UserfaultError
from userfault.snapshot.format.first_touch import CLASSES
from userfault.snapshot.format.working_set import WorkingSet, merged, recorded
from userfault.snapshot.working_sets.keeping import keep, load
from userfault.snapshot.working_sets.place import HEAD_BYTES, Job

_MOST = 1 << 16  # bytes of a message


def main(channel: socket.socket) -> None:
    """The main program: one job."""
    logging.basicConfig(format="userfault: %(message)s", level=logging.WARNING)
    data, fds, *_ = socket.recv_fds(channel, _MOST, 1)
    if not data:
        return
    job = msgspec.msgpack.decode(data, type=Job)
    try:
        where = save(job, mmap.mmap(fds[0], 0, prot=mmap.PROT_READ) if fds else b"")
    except (UserfaultError, OSError) as error:
        _say(f"the working set of {job.place.shown} is not kept: {error}")
        return
    if where:
        _say(f"the working set of {job.place.shown} is kept in {where}")


def save(job: Job, notes: bytes | mmap.mmap) -> str:
    """Merge a recording with what there is, and keep it; where, unless it is the first choice.

    Raises UserfaultError, OSError.
    """
    before = load(job.place, job.tie)
    if job.stale:
        if before is None or before.stale:
            return ""
        before.stale = True
        return keep(job.place, before)
    new = _noted(job, notes)
    if not new.all:
        return ""
    return keep(job.place, new if before is None else merged(before, new))


def _noted(job: Job, notes: bytes | mmap.mmap) -> WorkingSet:
    """The set that the notes make."""
    pages: list[list[int]] = [[] for _ in range(CLASSES)]
    held = memoryview(notes)[HEAD_BYTES : HEAD_BYTES + job.pages]
    for found in re.finditer(rb"[^\0]+", held):
        for page, mark in enumerate(found[0], found.start()):
            pages[min(mark, CLASSES) - 1].append(page)
    return recorded(job.tie, job.page_size, job.pages, map(BitMap, pages))


def _say(text: str) -> None:
    print(f"userfault: {text}", file=sys.stderr, flush=True)
