"""What userfaultfd answers to memory management (`mm.userfaultfd_k`): faults, events, merges."""

from __future__ import annotations

import errno
import signal

from userfault.model.errors import BUS_ADRERR, Errno, Signalled
from userfault.model.mm.address_space import AddressSpace
from userfault.model.mm.userfaultfd_k import Forks, Moves, Unmaps, Userfaultfd
from userfault.model.mm.vma import UserfaultfdCtx, Vma
from userfault.model.tasks.recorder import RECORD
from userfault.model.tasks.sched import Task
from userfault.model.uffd.context import Context, Event, Waiter, context_of
from userfault.model.uffd.events import announce, send, wants
from userfault.uapi import userfaultfd as abi

_SIGBUS = abi.UFFD_FEATURE_SIGBUS
_EXACT = abi.UFFD_FEATURE_EXACT_ADDRESS
_THREAD_ID = abi.UFFD_FEATURE_THREAD_ID
_WP_ASYNC = abi.UFFD_FEATURE_WP_ASYNC
_WP_UNPOPULATED = abi.UFFD_FEATURE_WP_UNPOPULATED
_RWP_ASYNC = abi.UFFD_FEATURE_RWP_ASYNC


class Hooks(Userfaultfd[AddressSpace]):
    """A kernel with userfaultfd.  It keeps nothing: a registration is all in its context."""

    # --- faults ----------------------------------------------------------------------------------

    def fault(
        self, task: Task, vma: Vma, address: int, reason: int, *, write: bool, user: bool
    ) -> Waiter | None:
        """Queue a message.

        Others may have filled the page since it was looked at, so it is looked at again when the
        message can be seen (userfaultfd_must_wait).
        """
        context = context_of(vma)
        assert context is not None
        if RECORD.on:
            RECORD.reads.add(("context", context.number))
        features = context.features
        page = address & -(1 << vma.shift)
        if features & _SIGBUS or task.killed:
            if not user:
                raise Errno(errno.EFAULT)
            raise Signalled(signal.SIGBUS, BUS_ADRERR, address)
        if context.user_mode_only and not user:
            raise Errno(errno.EFAULT)
        if RECORD.on:
            RECORD.notes.append(("decided", page, vma))
        sched = task.sched
        if sched.preemptive:
            sched.point("fault.queue")
        waiter = Waiter(
            context,
            task,
            address if features & _EXACT else page,
            reason | (abi.UFFD_PAGEFAULT_FLAG_WRITE if write else 0),
            task.tid if features & _THREAD_ID else 0,
            page,
            vma.shift,
            user=user,
        )
        if RECORD.on:
            RECORD.writes.add(("queue", context.number))
            RECORD.writes.add(waiter.place)
        context.pending.append(waiter)
        if sched.preemptive:
            sched.point("fault.check")
            if RECORD.on:
                RECORD.reads.add(waiter.place)
            if waiter.woken:
                return None
            looks = "no-second-look" not in context.mm.config.bugs
            if looks and not context.must_wait(waiter):
                context.forget(waiter)
                return None
        context.wake_readers()
        return waiter

    def wp_async(self, vma: Vma) -> bool:
        context = vma.context
        return isinstance(context, Context) and context.has(_WP_ASYNC)

    def rwp_async(self, vma: Vma) -> bool:
        context = vma.context
        return isinstance(context, Context) and context.has(_RWP_ASYNC)

    def wp_unpopulated(self, vma: Vma) -> bool:
        context = vma.context
        return isinstance(context, Context) and context.has(_WP_UNPOPULATED)

    # --- mappings --------------------------------------------------------------------------------

    def may_merge(self, vma: Vma, other: Vma) -> bool:
        return vma.modes == other.modes and vma.context is other.context

    def unmap_prep(self, vma: Vma, start: int, end: int, unmaps: Unmaps) -> None:
        context = context_of(vma)
        if context is None or not wants(context, abi.UFFD_FEATURE_EVENT_UNMAP):
            return
        if (context, start, end) not in unmaps:
            announce(context)
            unmaps.append((context, start, end))

    def unmap_complete(self, task: Task, unmaps: Unmaps) -> None:
        for context, start, end in unmaps:
            _send(task, context, abi.UFFD_EVENT_UNMAP, start, end)

    def mremap_follows(self, vma: Vma) -> bool:
        return wants(context_of(vma), abi.UFFD_FEATURE_EVENT_REMAP)

    def mremap_prep(self, vma: Vma, old: int, new: int, length: int, moves: Moves) -> None:
        context = context_of(vma)
        assert context is not None
        announce(context)
        moves.append((context, old, new, length))

    def mremap_complete(self, task: Task, moves: Moves) -> None:
        for context, old, new, length in moves:
            _send(task, context, abi.UFFD_EVENT_REMAP, old, new, length)

    def remove(self, task: Task, vma: Vma, start: int, end: int) -> bool:
        context = context_of(vma)
        if context is None or not wants(context, abi.UFFD_FEATURE_EVENT_REMOVE):
            return False
        announce(context)
        lock = context.mm.lock
        lock.read_done()
        try:
            _send(task, context, abi.UFFD_EVENT_REMOVE, start, end)
        finally:
            lock.read()
        return True

    # --- fork ------------------------------------------------------------------------------------

    def dup(self, vma: Vma, twin: Vma, child: AddressSpace, forks: Forks) -> None:
        twin.reset_ctx()
        context = context_of(vma)
        if context is None or not wants(context, abi.UFFD_FEATURE_EVENT_FORK):
            return
        if context not in forks:
            heir = Context(child, user_mode_only=context.user_mode_only)
            heir.features = context.features
            heir.flags = context.flags
            forks[context] = heir
            announce(context)
        twin.context = forks[context]
        twin.modes = vma.modes

    def dup_complete(self, task: Task, forks: Forks) -> None:
        for context, heir in forks.items():
            assert isinstance(context, Context)
            assert isinstance(heir, Context)
            send(task, context, Event(abi.UFFD_EVENT_FORK, (), task, heir))


def _send(task: Task, context: UserfaultfdCtx, code: int, *payload: int) -> None:
    assert isinstance(context, Context)
    send(task, context, Event(code, payload, task))
