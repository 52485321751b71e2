"""One userfaultfd context being served: its core, its descriptors, its source.

A mapping has one context; a fork of its process adds another for the child, which shares the
source (and, for shared memory, the page states).
"""

from __future__ import annotations

import contextlib
import errno
import mmap
import os
import select
from typing import TYPE_CHECKING

import msgspec

from userfault.linux.lifeline import LifeLine
from userfault.linux.pidfd import close_all
from userfault.linux.uffd import LiveUserfaultfd
from userfault.pager.core import recovery
from userfault.pager.core.core import MappingCore
from userfault.pager.core.course import Course
from userfault.pager.core.lost import LostCore
from userfault.pager.core.plan import Plan
from userfault.pager.core.segments import Segments
from userfault.pager.core.states import CACHED, HIDDEN, REMOVED, Pages
from userfault.pager.drivers.mappings.notes import Notes
from userfault.pager.drivers.mappings.origin import Origin
from userfault.pager.drivers.mappings.owner import Owner
from userfault.pager.drivers.mappings.spill import SpillFile
from userfault.pager.drivers.mappings.threads import Threads
from userfault.pager.drivers.processes.texts import clipped
from userfault.pager.drivers.record.records import Descriptors, Kept, ServedRecord, encode
from userfault.pager.drivers.shared.copy import SharedCopy
from userfault.pager.drivers.shared.holding import taken_up
from userfault.pager.drivers.wire.messages import MAX_FAILURES, Attach, Failure, Waited
from userfault.snapshot.working_sets.course import Course as Made
from userfault.source.spec import FunctionSpec, ZeroSpec

if TYPE_CHECKING:
    from userfault.pager.drivers.record.tracing import Recorder


class Served:
    """One mapping: the contexts that serve it (more than one after a fork), and what they share.

    `contexts[0]` is that of the process that asked, `owner`; its number is the mapping's `key`, by
    which it is told from those of every client.  (`number` is what its client calls it.)
    """

    read_from = False  # events that were read are being applied: another child may be among them

    def __init__(
        self, attach: Attach, fds: Descriptors, threads: Threads, owner: Owner, key: int
    ) -> None:
        self.attach = attach
        self.owner = owner
        self.number = attach.number
        self.key = key
        self.page_size = attach.page_size
        self.zeropage = attach.zeropage
        self._fds = fds
        self.memory = fds.memory  # the file behind it; -1 where there is none
        self._states: dict[int, mmap.mmap] = {}  # page states: the mapping's, forked children's
        self.lifeline = LifeLine(fds.lifeline_read, fds.lifeline_write)
        self.lost = ""  # why nothing of it is filled any more
        self.origin = self._opened(threads)
        self.notes = self._noted()
        self.course = self._planned()
        self.plan = _plan_of(self)
        self.spill = self._spill()
        self.copy = self._taken_copy() if attach.copy else None
        self.contexts: list[Context] = []
        self.failures: list[Failure] = []
        self.failed = 0
        self.told: set[str] = set()  # causes of failures that were said
        self.overdue: list[Waited] = []
        self.sound_until = 0.0  # when the source must be looked at again
        self._recorded: msgspec.Raw | None = None
        self._recorder: Recorder | None = None

    @classmethod
    def new(
        cls, attach: Attach, fds: Descriptors, threads: Threads, owner: Owner, number: int
    ) -> Served:
        """A mapping that `owner` hands over; its first context gets `number`.

        Where it raises, the descriptors are the caller's still.
        """
        served = cls(attach, fds, threads, owner, number)
        if attach.prepared:
            served._mapped(fds.states)[:] = bytes([CACHED]) * attach.pages
        segments = None
        if attach.regions:
            segments = Segments.of(attach.regions, served.plan.shift)
            state = HIDDEN if served.plan.joinable else REMOVED  # nobody can ask for these (yet)
            for page, count in segments.hidden([(0, attach.pages)]):
                served._mapped(fds.states)[page : page + count] = bytes([state]) * count
        core = MappingCore(served.plan, served._pages(fds.states), segments)
        uffd = served.adopted(fds.uffd)
        served.contexts.append(Context(served, number, core, uffd, fds.states))
        served._record_trace(resumed=False)
        return served

    @classmethod
    def again(cls, record: ServedRecord, threads: Threads, owner: Owner) -> Served:
        """A mapping that was served by another worker."""
        served = cls(record.attach, record.fds, threads, owner, record.contexts[0].core.number)
        served.failures, served.failed = record.failures, record.failed
        served.told = {failure.cause for failure in record.failures}
        if record.lost:
            served._again_lost(record)
            return served
        cores = recovery.rebuild(
            [kept.core for kept in record.contexts],
            lambda _: served.plan,
            lambda each: served._pages(each.states),
        )
        for kept in record.contexts:
            core = cores[kept.core.number]
            core.ledger.counters = kept.counters
            if served.contexts and not served.plan.restored:  # a child's pages come by touches
                core.planner.forget()
            uffd = served.adopted(kept.fd)
            context = Context(served, kept.core.number, core, uffd, kept.core.states)
            served.contexts.append(context)
        served._record_trace(resumed=True)
        return served

    def _record_trace(self, *, resumed: bool) -> None:
        """Have what happens in the client's own process written to the file that it asked for."""
        if self._fds.trace >= 0:
            # It brings threads along, which a pager of mappings without a trace has no use for.
            from userfault.pager.drivers.record.tracing import recorded  # noqa: PLC0415

            core = self.main.core
            self._recorder = recorded(core, self._fds.trace, self.owner.say, resumed=resumed)

    def _again_lost(self, record: ServedRecord) -> None:
        for kept in record.contexts:
            uffd = self.adopted(kept.fd)
            core = LostCore(self.plan, record.lost)
            self.contexts.append(Context(self, kept.core.number, core, uffd, kept.core.states))
        if record.failed:
            self.lost = record.lost
        else:
            self.lose(record.lost)

    def lose(self, why: str) -> None:
        """An error of ours: from now on each fault is answered with poison."""
        self.lost = why
        self.changed()
        self.failed += 1
        cure = "restore again; and please report what standard error says"
        self.failures.insert(0, Failure(0, clipped(why), cure))
        del self.failures[MAX_FAILURES:]
        for context in self.contexts:
            context.core = LostCore(self.plan, why)
        if self.origin.fetcher:
            self.origin.fetcher.close()

    def _spill(self) -> SpillFile:
        """Where pages go that were written."""
        return SpillFile(self._fds.spill)

    def _opened(self, threads: Threads) -> Origin:
        """The source."""
        return Origin(self.attach, self._fds.source, threads)

    def _noted(self) -> Notes | None:
        """Where first touches are noted."""
        return Notes(self._fds.touches, self.attach.pages) if self.attach.has_touches else None

    def _planned(self) -> Course | None:
        """What comes ahead of the faults: a hint, which is checked before it is followed."""
        has, fd = self.attach.has_course, self._fds.course
        course = Made(mmap.mmap(fd, 0, prot=mmap.PROT_READ)) if has else None
        return course if course and course.fits(self.attach.pages) else None

    def _taken_copy(self) -> SharedCopy:
        """The copy of the source over which the memory is mapped.  Raises OSError."""
        return taken_up(self.attach.copy, self._fds, self._mapped(self._fds.marks))

    def adopted(self, fd: int) -> LiveUserfaultfd:
        """The userfaultfd behind a descriptor that came along."""
        return LiveUserfaultfd.adopt(fd)

    def _mapped(self, states: int) -> mmap.mmap:
        """The memory `states`.  Raises OSError."""
        if states not in self._states:
            self._states[states] = mmap.mmap(states, self.attach.pages)
        return self._states[states]

    def _pages(self, states: int) -> Pages:
        """The page states in the memory `states`.  Raises OSError."""
        return Pages(self._mapped(states), self.attach.pages)

    def copy_states(self, held: Pages) -> tuple[int, Pages]:
        """Memory with a copy of the states, for the child of a fork.  Raises OSError."""
        states = _memory_with(bytes(held.states[0 : held.count]))
        return states, self._pages(states)

    @property
    def main(self) -> Context:
        """The context of the process that asked."""
        return self.contexts[0]

    @property
    def signals(self) -> int:
        """The log of the signals that the client was sent; -1 for none."""
        return self._fds.signals

    def memory_size(self) -> int:
        """Size of the file behind the memory now; -1 where there is none."""
        return os.fstat(self._fds.memory).st_size if self._fds.memory >= 0 else -1

    def finish(self) -> None:
        """Tell the client that everything is in.  A second time does no harm."""
        if not self.needed:
            self.lifeline.disarm()
        self.tell()

    def tell(self) -> None:
        """Let whoever waits for the finish look how it stands."""
        _ring(self._fds.finished)

    @property
    def needed(self) -> bool:
        """Threads of the client may wait for us: over a shared copy for as long as it is there."""
        return self.plan.over_copy or not self.main.core.finished

    @property
    def deserted(self) -> bool:
        """Its client has ended, or needs nobody, and so has every child that a fork added."""
        alone = self.attach.restored or not self.owner.alive
        ended = all(context.closed for context in self.contexts)
        return alone and ended and not self.read_from

    def changed(self) -> None:
        """What the record says of this mapping is not true any more."""
        self._recorded = None

    def record(self) -> msgspec.Raw:
        """For the journal, encoded."""
        if self._recorded is None:
            contexts = [context.record() for context in self.contexts]
            fds = self._fds
            if self.main.closed:  # children live on without it
                fds = msgspec.structs.replace(fds, uffd=-1)
            record = ServedRecord(self.attach, fds, contexts, self.failures, self.failed, self.lost)
            self._recorded = msgspec.Raw(encode(record))
        return self._recorded

    def forget_states(self, states: int) -> None:
        """A context has gone: let go of its states, unless they are the mapping's."""
        if states != self._fds.states:
            self._states.pop(states, None)  # a fork of it that was read may be copied from them
            os.close(states)

    def close(self) -> None:
        """Let go of everything."""
        for context in self.contexts:
            context.close()
        self.contexts.clear()
        self.lifeline.disarm()
        self.lifeline.close()
        self.origin.close()
        for held in self._states.values():
            held.close()
        self.spill.close()
        if self._recorder is None or self._recorder.end():
            close_all([self._fds.trace])
        if self.notes is not None:
            self.notes.close()
        close_all(_held(self._fds))


def _held(fds: Descriptors) -> list[int]:
    """What nobody else has closed by the end."""
    found = [fds.states, fds.finished, fds.memory, fds.signals, fds.course]
    return [*found, fds.filler, fds.marks, fds.claim]


def _memory_with(data: bytes) -> int:
    """A memfd with these bytes in it.  Raises OSError."""
    made = os.memfd_create("userfault-states", os.MFD_CLOEXEC)
    try:
        os.posix_fallocate(made, 0, len(data))
        if os.pwrite(made, data, 0) < len(data):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    except OSError:
        os.close(made)
        raise
    return made


def _ring(bell: int) -> None:
    """Without waiting: the client has the eventfd too, and may have filled it."""
    poll = select.poll()
    poll.register(bell, select.POLLOUT)
    if any(event & select.POLLOUT for _, event in poll.poll(0)):
        with contextlib.suppress(BlockingIOError):
            os.eventfd_write(bell, 1)


def _plan_of(served: Served) -> Plan:
    """What its core must know of it."""
    attach = served.attach
    return Plan(
        start=attach.start,
        page_size=attach.page_size,
        policy=attach.policy,
        source_zero=isinstance(attach.source, ZeroSpec),
        source_fetches=isinstance(attach.source, FunctionSpec),
        exists_is_ambiguous=attach.exists_is_ambiguous,
        shared=attach.shared,
        has_poison=attach.has_poison,
        layout=served.origin.layout,
        resident=resident_pages(attach),
        evicts=attach.evicts,
        spills=attach.has_spill,
        touches=served.notes.touches if served.notes else None,
        course=served.course,
        over_copy=attach.copy > 0,
        restored=attach.restored,
        early=attach.early,
        tracked=attach.tracked,
        joinable=attach.backing != "",
        experiences=served.origin.experiences,
    )


def resident_pages(attach: Attach) -> int:
    """Pages that may be in memory at once; 0: all of them."""
    return max((attach.policy.resident_bytes or 0) // attach.page_size, 0)


class Context:
    """One userfaultfd with its core.  `states`: the descriptor of its page states' memory."""

    def __init__(
        self,
        served: Served,
        number: int,
        core: MappingCore,
        uffd: LiveUserfaultfd,
        states: int,
    ) -> None:
        self.served = served
        self.number = number
        self.core = core
        self.uffd = uffd
        self.fd = uffd.fileno()
        self.states = states
        self.closed = self.fd < 0  # served no more

    def record(self) -> Kept:
        """For the journal."""
        fd = -1 if self.closed else self.fd
        core = recovery.record(self.core, self.number, self.states)
        return Kept(fd, core, self.core.counters)

    def close(self) -> None:
        """Close the descriptors, once no record names them."""
        self.closed = True
        self.core.release()
        self.uffd.close()
        self.served.forget_states(self.states)
