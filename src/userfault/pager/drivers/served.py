"""One userfaultfd context being served: its core, its descriptors, its source.

A mapping has one context; a fork of its process adds another for the child, which shares the
source (and, for shared memory, the page states).
"""

from __future__ import annotations

import mmap
import os

import msgspec

from userfault.kernel.memtypes import round_up
from userfault.linux.lifeline import LifeLine
from userfault.linux.pidfd import close_all
from userfault.linux.uffd import LiveUserfaultfd
from userfault.pager.core.core import MappingCore
from userfault.pager.core.plan import Plan
from userfault.pager.core.states import CACHED, Pages
from userfault.pager.drivers.messages import Attach, Failure, Waited
from userfault.pager.drivers.readers import Readers
from userfault.pager.drivers.residency import Residency
from userfault.pager.drivers.workers import Workers
from userfault.source.file import FileSource
from userfault.source.spec import FileSpec, FunctionSpec, ZeroSpec


class Descriptors(msgspec.Struct):
    """The descriptors of an `Attach`, by name (-1: none)."""

    uffd: int
    states: int
    finished: int
    lifeline_read: int
    lifeline_write: int
    source: int = -1
    memory: int = -1

    @classmethod
    def of(cls, attach: Attach, fds: list[int]) -> Descriptors:
        """Sort the descriptors that came with `attach`; raises ValueError when some are missing."""
        expected = 5 + attach.has_source + attach.has_memory
        if len(fds) != expected:
            close_all(fds)
            raise ValueError(f"{len(fds)} descriptors came where {expected} belong")
        found = cls(*fds[:5])
        if attach.has_source:
            found.source = fds[5]
        if attach.has_memory:
            found.memory = fds[-1]
        return found


class Origin:
    """Where a mapping's pages come from: the source, and how to read it from here.

    `file`, `residency`: for a file.  `fetcher`: what reads away from the fault path.
    """

    def __init__(self, attach: Attach, fd: int, bell: int) -> None:
        spec = attach.source
        self.file: FileSource | None = None
        self.residency: Residency | None = None
        self.fetcher: Readers | Workers | None = None
        if isinstance(spec, FileSpec):
            self.file = FileSource(spec, fd)
            # Prepared memory is not copied from: nothing to map.
            self.residency = None if attach.prepared else Residency(self.file, attach.page_size)
            self.fetcher = Readers(attach.number, self.file, bell)
        elif isinstance(spec, FunctionSpec):
            policy = attach.policy
            slot = round_up(max(policy.window_bytes, policy.chunk_bytes), attach.page_size)
            self.fetcher = Workers(attach.number, spec, slot, policy.fetches)

    def address(self, offset: int, length: int) -> int:
        """Where bytes of the source can be copied from at once, or 0."""
        return self.residency.address(offset, length) if self.residency else 0

    def forget(self, now: float) -> None:
        """What is known of the page cache does not hold for ever."""
        if self.residency:
            self.residency.forget(now)

    def changed(self) -> str:
        """Why the source is not what it was; empty when all is well."""
        return self.file.changed() if self.file else ""

    def close(self) -> None:
        """End workers, unmap, close."""
        if self.fetcher:
            self.fetcher.close()
        if self.residency:
            self.residency.close()
        if self.file:
            self.file.close()


class Served:
    """One mapping: the contexts that serve it (more than one after a fork), and what they share."""

    def __init__(self, attach: Attach, fds: Descriptors, bell: int) -> None:
        self.attach = attach
        self.number = attach.number
        self.page_size = attach.page_size
        self.zeropage = attach.zeropage
        self._fds = fds
        size = os.fstat(fds.states).st_size
        self._states = mmap.mmap(fds.states, size)
        if attach.prepared:
            self._states[0 : attach.pages] = bytes([CACHED]) * attach.pages
        self.lifeline = LifeLine(fds.lifeline_read, fds.lifeline_write)
        self.origin = Origin(attach, fds.source, bell)
        plan = Plan(
            start=attach.start,
            page_size=attach.page_size,
            policy=attach.policy,
            source_zero=isinstance(attach.source, ZeroSpec),
            source_fetches=isinstance(attach.source, FunctionSpec),
            exists_is_ambiguous=attach.exists_is_ambiguous,
            shared=attach.shared,
            has_poison=attach.has_poison,
        )
        self.pages = Pages(self._states, attach.pages)
        core = MappingCore(plan, self.pages)
        self.contexts: list[Context] = [Context(self, core, LiveUserfaultfd.adopt(fds.uffd))]
        self.failures: list[Failure] = []
        self.failed = 0
        self.overdue: list[Waited] = []
        self.sound_until = 0.0  # when the source must be looked at again

    @property
    def main(self) -> Context:
        """The context of the process that asked."""
        return self.contexts[0]

    def memory_size(self) -> int:
        """Size of the file behind the memory now; -1 where there is none."""
        return os.fstat(self._fds.memory).st_size if self._fds.memory >= 0 else -1

    def finish(self) -> None:
        """Tell the client that everything is in."""
        self.lifeline.disarm()
        os.eventfd_write(self._fds.finished, 1)

    def close(self) -> None:
        """Let go of everything."""
        for context in self.contexts:
            context.uffd.close()
        self.lifeline.disarm()
        self.lifeline.close()
        self.origin.close()
        self._states.close()
        close_all([self._fds.states, self._fds.finished, self._fds.memory])


class Context:
    """One userfaultfd with its core.  `pid`: of the process it belongs to, 0 where unknown."""

    def __init__(self, served: Served, core: MappingCore, uffd: LiveUserfaultfd) -> None:
        self.served = served
        self.core = core
        self.uffd = uffd
        self.fd = uffd.fileno()

    @property
    def closed(self) -> bool:
        """Served no more (its number may belong to another descriptor by now)."""
        return self.uffd.fileno() < 0
