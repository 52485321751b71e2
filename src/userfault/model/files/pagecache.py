"""The page cache of a machine: every file that exists, and the locks of folios."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from userfault.model.files.folio import LOCKED, SWAPPED, Folio, Mount, Object
from userfault.model.files.inode import Inode
from userfault.model.files.memory import Memory
from userfault.model.files.ops import FileOps, Where
from userfault.model.tasks.recorder import RECORD
from userfault.model.tasks.sched import Sched, Task, Wait


class PageCache:
    """Files by what keeps them, and who sleeps for the lock of a folio.

    `guests` are told before pages [first, last) of a file go (KVM holds no reference on them).
    """

    def __init__(self, sched: Sched, memory: Memory) -> None:
        self.sched = sched
        self.memory = memory
        self.inodes: dict[Inode, None] = {}
        self.mount = Mount()  # memfds live here
        self.guests: list[Callable[[Object, int, int], None]] = []
        self._queues: dict[Folio, deque[Task]] = {}

    def create(
        self,
        kind: FileOps,
        size: int,
        *,
        shift: int = 12,
        mount: Mount | None = None,
        traits: int = 0,
    ) -> Inode:
        """A new file, with one link that the caller holds."""
        blocks = (mount or self.mount) if kind.accounts_blocks else None
        made = Inode(f"{kind.name}#{len(self.inodes)}", kind, size, shift, blocks, traits)
        made.links = 1
        self.inodes[made] = None
        return made

    def link(self, target: Inode) -> None:
        target.links += 1

    def unlink(self, target: Inode) -> None:
        """One holder less; with the last the pages and the promises go."""
        target.links -= 1
        if target.links:
            return
        if RECORD.on:
            RECORD.reads.add(("slots", target.number))
        for folio in list(target.cache.values()):
            self.drop_cached(target, folio)
        if target.promised:
            self.memory.pools[target.shift].reserved -= len(target.promised)
            target.promised.clear()
        del self.inodes[target]

    def drop_cached(self, target: Object, folio: Folio) -> None:
        """Take one page out of the cache and drop the cache's reference."""
        target.remove(folio)
        target.uncharge()
        self.memory.put(folio)

    def swap_out(self, folio: Folio) -> None:
        """Write a page that nobody has mapped to swap; what its file is charged stays as it is."""
        assert not folio.mapcount
        folio.flags |= SWAPPED

    def where(self, target: Object, index: int) -> Where:
        """For a page of the file itself, on nobody's cgroup."""
        return Where(self.memory, target, index, True, target.shift, None)

    # --- the locks of folios ---------------------------------------------------------------------

    def lock_folio(self, folio: Folio) -> None:
        """Sleep until nobody has it locked, then lock it."""
        if self.sched.preemptive:
            self.sched.point("folio.lock")
        self.wait_folio(folio)
        if RECORD.on:
            RECORD.writes.add(("page", folio.number))
        folio.flags |= LOCKED

    def wait_folio(self, folio: Folio) -> None:
        """Sleep until nobody has it locked."""
        if RECORD.on:
            RECORD.reads.add(("page", folio.number))
        while folio.flags & LOCKED:
            task = self.sched.current
            if task is not None:
                self._queues.setdefault(folio, deque()).append(task)
            if RECORD.on:
                RECORD.writes.add(("page", folio.number))
            self.sched.block(Wait("lock", lambda: f"the lock of {folio.name}"))
            if RECORD.on:
                RECORD.reads.add(("page", folio.number))

    def unlock_folio(self, folio: Folio) -> None:
        if RECORD.on:
            RECORD.writes.add(("page", folio.number))
        folio.flags &= ~LOCKED
        if self._queues:
            for task in self._queues.pop(folio, ()):
                self.sched.wake(task)
