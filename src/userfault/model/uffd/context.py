"""A userfaultfd context: handshake, queues of faults and events, waiting and waking.

A fault's waiter is on the *pending* queue until it is read, then among the *delivered*, until a
wake-up of its address takes it off.  Reading acknowledges nothing.  Events queue apart from
faults, which are always read first.
"""

from __future__ import annotations

import contextlib
import errno
from collections import deque

from userfault.kernel.calls import WAITS_FAULT, WAITS_MESSAGE
from userfault.model.errors import Errno
from userfault.model.mm import pgtable as pt
from userfault.model.mm.address_space import AddressSpace
from userfault.model.mm.change_protection import clear_protection
from userfault.model.mm.lifetime import using
from userfault.model.mm.userfaultfd_k import Sleeper
from userfault.model.mm.vma import UserfaultfdCtx, Vma
from userfault.model.tasks.locks import RWLock
from userfault.model.tasks.recorder import RECORD, Place
from userfault.model.tasks.sched import Sched, Task, Wait
from userfault.uapi import userfaultfd as abi

_LISTED = 16  # pages of a range that are recorded one by one
INITIALIZED = 1 << 31  # the kernel's own feature bit; fdinfo shows it


class Waiter(Sleeper):
    """A task in a fault, and the message about it."""

    __slots__ = (
        "address",
        "asleep",
        "context",
        "flags",
        "page",
        "shift",
        "task",
        "thread_id",
        "user",
        "woken",
    )

    def __init__(
        self,
        context: Context,
        task: Task,
        address: int,
        flags: int,
        thread_id: int,
        page: int,
        shift: int,
        *,
        user: bool,
    ) -> None:
        self.context = context
        self.task = task
        self.address = address
        self.flags = flags
        self.thread_id = thread_id
        self.page = page
        self.shift = shift
        self.user = user  # touched by the program, not by the kernel for it
        self.asleep = False
        self.woken = False  # off the queues, whether it sleeps yet or not

    @property
    def place(self) -> Place:
        """What a wake-up looks at: the base page of the address that its message names."""
        return ("waiters", self.context.number, self.address & -4096)

    def sleep(self) -> None:
        """Until it is woken; at once if it has been woken meanwhile."""
        if self.woken:
            return
        self.asleep = True
        context = self.context
        if RECORD.on:
            RECORD.notes.append(("sleeps", self))
        self.task.sched.block(
            Wait(
                WAITS_FAULT,
                lambda: context.tell(self),
                interruptible=self.user,
                give_up=lambda: context.forget(self),
            )
        )


_NAMES = {
    abi.UFFD_EVENT_FORK: "FORK",
    abi.UFFD_EVENT_REMAP: "REMAP",
    abi.UFFD_EVENT_REMOVE: "REMOVE",
    abi.UFFD_EVENT_UNMAP: "UNMAP",
}


class Event:
    """One message of the event queue.  `child`: the context of the child, of a FORK."""

    __slots__ = ("child", "code", "payload", "read", "task")

    def __init__(
        self, code: int, payload: tuple[int, ...], task: Task, child: Context | None = None
    ) -> None:
        self.code = code
        self.payload = payload
        self.task = task
        self.child = child
        self.read = False

    def delivered(self, sched: Sched) -> None:
        """It was read: its sender may go on."""
        self.read = True
        sched.wake(self.task)

    def abandon(self, sched: Sched) -> None:
        """The context is gone: nobody will read it."""
        sched.wake(self.task)

    @property
    def name(self) -> str:
        return f"{_NAMES[self.code]}{tuple(hex(value) for value in self.payload)}"


class Context(UserfaultfdCtx):
    """What is behind a userfaultfd; belongs to `mm` for ever, whoever holds the descriptor."""

    def __init__(self, mm: AddressSpace, *, user_mode_only: bool = False) -> None:
        self.mm = mm
        self.user_mode_only = user_mode_only
        self.features = 0  # 0 before the handshake
        self.flags = 0  # O_CLOEXEC and O_NONBLOCK at creation, for descriptors of FORK events
        self.pending: deque[Waiter] = deque()
        self.delivered: list[Waiter] = []
        self.events: deque[Event] = deque()
        self.readers: deque[Task] = deque()
        # Fills hold it for reading, events are announced under it: one waits for the others.
        self.map_changing = RWLock(mm.sched, "map_changing")
        self.changing = 0  # events whose sender has not run again since they were read
        self.released = False
        self.number = RECORD.number()
        self.name = f"uffd#{len(mm.contexts)}"
        mm.contexts[self] = None

    # --- handshake -------------------------------------------------------------------------------

    def handshake(self, api: int, features: int, *, may_trace: bool) -> tuple[int, int]:
        """UFFDIO_API: (features, ioctls) that the kernel has.  Raises Errno."""
        profile = self.mm.profile
        offered = profile.features | profile.says_guest_memfd
        if api != abi.UFFD_API:
            raise Errno(errno.EINVAL)
        if features & abi.UFFD_FEATURE_EVENT_FORK and not may_trace:
            raise Errno(errno.EPERM)
        if features & abi.UFFD_FEATURE_WP_ASYNC:
            features |= abi.UFFD_FEATURE_WP_UNPOPULATED
        if features & abi.UFFD_FEATURE_RWP_ASYNC and not features & abi.UFFD_FEATURE_RWP:
            raise Errno(errno.EINVAL)
        if features & ~offered:
            raise Errno(errno.EINVAL)
        return offered, profile.api_ioctls

    def initialize(self, features: int) -> None:
        """The last step of the handshake; EINVAL if it was done before."""
        if RECORD.on:
            RECORD.writes.add(("context", self.number))
        if self.features and "handshake-twice" not in self.mm.config.bugs:
            raise Errno(errno.EINVAL)
        if features & abi.UFFD_FEATURE_WP_ASYNC:
            features |= abi.UFFD_FEATURE_WP_UNPOPULATED
        if RECORD.on:
            RECORD.notes.append(("features", self, self.features))
        self.features = features | INITIALIZED

    def has(self, feature: int) -> bool:
        """Whether any of these features is on."""
        if RECORD.on:
            RECORD.reads.add(("context", self.number))
        return bool(self.features & feature)

    @property
    def is_changing(self) -> bool:
        """Whether an event is announced whose sender has not gone on yet."""
        if RECORD.on:
            RECORD.reads.add(("changing", self.number))
        return bool(self.changing) and "fills-during-events" not in self.mm.config.bugs

    def space(self) -> using:
        """The address space, which stays within the block; ESRCH when its process has ended."""
        return using(self.mm, errno.ESRCH)

    def set_mode(self, enable: int, disable: int) -> None:
        """UFFDIO_SET_MODE (7.3): RWP_ASYNC on or off; switching it on wakes every waiter."""
        if not self.mm.profile.api_ioctls & 1 << abi._UFFDIO_SET_MODE:
            raise Errno(errno.EINVAL)
        known = abi.UFFD_FEATURE_RWP_ASYNC
        if enable & disable or (enable | disable) & ~known:
            raise Errno(errno.EINVAL)
        if enable and not self.features & abi.UFFD_FEATURE_RWP:
            raise Errno(errno.EINVAL)
        with self.space():
            pass
        if RECORD.on:
            RECORD.writes.add(("context", self.number))
        self.features = (self.features | enable) & ~disable
        if enable:
            self.wake_all()

    # --- faults ----------------------------------------------------------------------------------

    def tell(self, waiter: Waiter) -> str:
        """What a task in a fault waits for."""
        text = f"{self.name} to resolve a fault (flags {waiter.flags}) at {waiter.address:#x}"
        text += ", not read yet" if waiter in self.pending else ", read"
        if not self.must_wait(waiter):
            text += "; the page is there: its wake-up is lost or still to come"
        return text

    def must_wait(self, waiter: Waiter) -> bool:
        """Whether the fault would still be a fault (userfaultfd_must_wait)."""
        vma = self.mm.find(waiter.page)
        if vma is None or vma.context is not self:
            return False
        entry = self.mm.entry(vma, waiter.page & -(1 << vma.shift))
        if entry is None or waiter.page in self.mm.flushing:
            return True
        flags, folio = entry
        if folio is None:
            return bool(flags & pt.MARK_WP)
        if waiter.flags & abi.UFFD_PAGEFAULT_FLAG_WP:
            return not flags & pt.WRITE
        return bool(flags & pt.UFFD_RWP)

    def forget(self, waiter: Waiter) -> None:
        """Off the queues: something other than a wake-up ends its wait."""
        if RECORD.on:
            RECORD.writes.add(("queue", self.number))
            RECORD.writes.add(waiter.place)
        if waiter in self.pending:
            self.pending.remove(waiter)
        else:
            self.delivered.remove(waiter)

    def wake(self, start: int, length: int) -> None:
        """Every waiter whose message lies in the range faults again."""
        end = start + length
        if RECORD.on:
            self._record_wake(start, end)
        pending = self.pending
        if pending:
            woken = [waiter for waiter in pending if start <= waiter.address < end]
            if woken:
                left = [waiter for waiter in pending if not start <= waiter.address < end]
                pending.clear()
                pending.extend(left)
                self._run(woken)
        if self.delivered:
            woken = [waiter for waiter in self.delivered if start <= waiter.address < end]
            if woken:
                self.delivered = [
                    waiter for waiter in self.delivered if not start <= waiter.address < end
                ]
                self._run(woken)

    def _record_wake(self, start: int, end: int) -> None:
        """Who finds nobody looks at these pages only; who finds somebody changes the queues."""
        if (end - start) >> 12 > _LISTED:
            RECORD.writes.add(("queue", self.number))
        else:
            for page in range(start, end, 4096):
                RECORD.reads.add(("waiters", self.number, page))
        for waiter in (*self.pending, *self.delivered):
            if start <= waiter.address < end:
                RECORD.writes.add(("queue", self.number))
                RECORD.writes.add(waiter.place)

    def next_fault(self) -> Waiter | None:
        """Take the next message about a fault: its waiter is among the delivered now."""
        if RECORD.on:
            (RECORD.writes if self.pending else RECORD.reads).add(("queue", self.number))
        if not self.pending:
            return None
        waiter = self.pending.popleft()
        self.delivered.append(waiter)
        return waiter

    def next_event(self) -> Event | None:
        """Take the next event."""
        if RECORD.on:
            (RECORD.writes if self.events else RECORD.reads).add(("events", self.number))
        return self.events.popleft() if self.events else None

    def wake_all(self) -> None:
        if RECORD.on:
            RECORD.writes.add(("queue", self.number))
            for waiter in (*self.pending, *self.delivered):
                RECORD.writes.add(waiter.place)
        woken = [*self.pending, *self.delivered]
        self.pending.clear()
        self.delivered = []
        self._run(woken)

    def _run(self, woken: list[Waiter]) -> None:
        sched = self.mm.sched
        for waiter in woken:
            waiter.woken = True
            sched.wake(waiter.task)

    # --- poll, readers ---------------------------------------------------------------------------

    def readable(self) -> bool:
        if RECORD.on:
            RECORD.reads.add(("queue", self.number))
            RECORD.reads.add(("events", self.number))
        return bool(self.pending or self.events)

    def wake_readers(self) -> None:
        """Tasks asleep in read or poll look again."""
        if RECORD.on:
            (RECORD.writes if self.readers else RECORD.reads).add(("readers", self.number))
        sched = self.mm.sched
        while self.readers:
            sched.wake(self.readers.popleft())

    def wait_readable(self, task: Task) -> None:
        """Sleep until there may be something to read; EINTR on a signal."""
        if RECORD.on:
            RECORD.writes.add(("readers", self.number))
        self.readers.append(task)
        task.sched.block(
            Wait(
                WAITS_MESSAGE,
                lambda: f"a message of {self.name}",
                interruptible=True,
                give_up=lambda: self.readers.remove(task),
            )
        )

    # --- the end ---------------------------------------------------------------------------------

    def forget_mappings(self) -> None:
        """Close it and leave its mappings registered, as an old bug did."""
        self.mm.changed()
        self.released = True
        self.mm.contexts.pop(self, None)

    def release(self) -> None:
        """The last descriptor was closed: unregister everything, let everybody go."""
        mm = self.mm
        if RECORD.on:
            RECORD.writes.add(("context", self.number))
            RECORD.writes.add(("events", self.number))
        self.released = True
        with contextlib.suppress(Errno), self.space():
            mm.write()
            for vma in [vma for vma in mm.vmas.values() if vma.context is self]:
                withdraw(mm, vma)
                mm.merge(vma.start, vma.end)  # others that could join stay as they are
            mm.write_done()
        self.wake_all()
        while self.events:
            self.events.popleft().abandon(mm.sched)
        self.wake_readers()
        mm.contexts.pop(self, None)
        if RECORD.on:
            RECORD.notes.append(("closed", self))


def withdraw(mm: AddressSpace, vma: Vma) -> None:
    """Take the registration off a mapping: protection and wp markers go, poison stays."""
    mm.start_write(vma)
    if "close-keeps-protection" not in mm.config.bugs:
        clear_protection(mm, vma, vma.start, vma.end)
    mm.changed()
    vma.reset_ctx()


def context_of(vma: Vma) -> Context | None:
    """With what a mapping is registered."""
    found = vma.context
    assert found is None or isinstance(found, Context)
    return found
