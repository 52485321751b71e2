"""A userfaultfd as an open file: read(2) and poll(2)."""

from __future__ import annotations

import errno

from userfault.model.errors import Errno
from userfault.model.files.open_files import O_NONBLOCK, OpenFile
from userfault.model.files.pagecache import PageCache
from userfault.model.tasks.recorder import RECORD
from userfault.model.tasks.sched import Task
from userfault.model.uffd.caller import Caller
from userfault.model.uffd.context import Context
from userfault.uapi import userfaultfd as abi

POLLIN = 1
POLLERR = 8
SIZE = abi.uffd_msg.size

_fault = abi.uffd_msg_pagefault.struct.pack
_fork = abi.uffd_msg_fork.struct.pack
_remap = abi.uffd_msg_remap.struct.pack
_remove = abi.uffd_msg_remove.struct.pack


class UffdFile(OpenFile):
    """A userfaultfd."""

    def __init__(self, flags: int, context: Context) -> None:
        super().__init__(flags & O_NONBLOCK)
        self.context = context

    def release(self, files: PageCache) -> None:
        del files
        self.context.release()


def read(task: Task, caller: Caller, file: UffdFile, length: int, *, nowait: bool = False) -> bytes:
    """As many whole messages as fit, faults before events; sleeps for the first one only.

    No lock is held from one message to the next (fs/userfaultfd.c of 6.18, `userfaultfd_read`).
    """
    context = file.context
    nonblocking = bool(file.flags & O_NONBLOCK)
    if nowait and not nonblocking:
        code = context.mm.profile.read_nowait
        if code != errno.EAGAIN:
            raise Errno(code)
        nonblocking = True
    if not context.features or length < SIZE:
        raise Errno(errno.EINVAL)
    parts: list[bytes] = []
    while length >= SIZE:
        message = _next(task, caller, file)
        if message is not None:
            parts.append(message)
            length -= SIZE
            if length >= SIZE:
                # A sender that was woken may have sent the next message before the read ends
                # (measured on 6.18, with random programs).
                task.sched.point("read.next")
        elif parts:
            break
        elif nonblocking:
            raise Errno(errno.EAGAIN)
        else:
            _sleep(task, file)
    return b"".join(parts)


def _sleep(task: Task, file: UffdFile) -> None:
    file.context.wait_readable(task)
    if task.interrupted and not task.restarts:
        raise Errno(errno.EINTR)


def _next(task: Task, caller: Caller, file: UffdFile) -> bytes | None:
    context = file.context
    waiter = context.next_fault()
    if waiter is not None:
        return _fault(abi.UFFD_EVENT_PAGEFAULT, waiter.flags, waiter.address, waiter.thread_id)
    event = context.next_event()
    if event is None:
        return None
    if event.child is not None:
        if task.sched.preemptive:
            task.sched.point("read.fork")  # its queue is not locked while a descriptor is made
        if RECORD.on:
            RECORD.writes.add(("context", event.child.number))
        heir = UffdFile(event.child.flags, event.child)
        message = _fork(event.code, caller.open(heir, event.child.flags))
    elif event.code == abi.UFFD_EVENT_REMAP:
        message = _remap(event.code, *event.payload)
    else:
        message = _remove(event.code, *event.payload)
    event.delivered(task.sched)
    return message


def poll(task: Task, file: UffdFile, *, wait: bool) -> int:
    """The events of poll(2): POLLERR for a descriptor that blocks, or before the handshake."""
    context = file.context
    while True:
        if not context.features or not file.flags & O_NONBLOCK:
            return POLLERR
        if context.readable():
            return POLLIN
        if not wait:
            return 0
        context.wait_readable(task)
        if task.interrupted:
            raise Errno(errno.EINTR)
