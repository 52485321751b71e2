"""What memory management asks of userfaultfd (include/linux/userfaultfd_k.h), and a no to it all.

`mm` knows of a registration the modes of a mapping, as flags of its own, and that there is a
context; everything else it asks here.  `uffd` answers.  A kernel that is built without
CONFIG_USERFAULTFD has `Absent` instead, as the header has inline functions of its own for that.

An event has two halves, as in the kernel: what is asked while the lock is held for writing says
who has to be told (and has fills fail from then on); telling them sleeps, with no lock held.
"""

from __future__ import annotations

import signal
from abc import ABC, abstractmethod
from typing import Generic, NoReturn, TypeVar

from userfault.model.errors import BUS_ADRERR, Signalled
from userfault.model.mm.vma import UserfaultfdCtx, Vma
from userfault.model.tasks.sched import Task

# The address space: it holds what is described here, which so cannot name it.
Mm = TypeVar("Mm")

Unmaps = list[tuple[UserfaultfdCtx, int, int]]
Moves = list[tuple[UserfaultfdCtx, int, int, int]]
Forks = dict[UserfaultfdCtx, UserfaultfdCtx]


class Sleeper(ABC):
    """A task in a fault, which sleeps when it holds no lock any more."""

    @abstractmethod
    def sleep(self) -> None:
        """Until it is woken; at once if it has been woken meanwhile."""


class Userfaultfd(ABC, Generic[Mm]):
    """Userfaultfd, as memory management sees it."""

    # --- faults ----------------------------------------------------------------------------------

    @abstractmethod
    def fault(
        self, task: Task, vma: Vma, address: int, reason: int, *, write: bool, user: bool
    ) -> Sleeper | None:
        """Tell of a fault: who is to sleep once the mapping is let go (handle_userfault).

        None where there is nothing to wait for any more; the access is tried again in both cases.
        `reason`: the UFFD_PAGEFAULT_FLAG of its kind, 0 for a missing page.  The mapping is
        locked.  Raises Signalled, or Errno EFAULT for an access by the kernel (`user` False),
        where a wait is refused.
        """

    @abstractmethod
    def wp_async(self, vma: Vma) -> bool:
        """Whether writes to what is write-protected are only noted (userfaultfd_wp_async)."""

    @abstractmethod
    def rwp_async(self, vma: Vma) -> bool:
        """Whether touches of what is RWP-protected are only noted (userfaultfd_rwp_async)."""

    @abstractmethod
    def wp_unpopulated(self, vma: Vma) -> bool:
        """Whether protection of anonymous memory leaves marks where nothing is."""

    # --- mappings --------------------------------------------------------------------------------

    @abstractmethod
    def may_merge(self, vma: Vma, other: Vma) -> bool:
        """Whether the registrations allow the two to be one mapping."""

    @abstractmethod
    def unmap_prep(self, vma: Vma, start: int, end: int, unmaps: Unmaps) -> None:
        """[start, end) around `vma` is to be unmapped: who has to be told goes to `unmaps`."""

    @abstractmethod
    def unmap_complete(self, task: Task, unmaps: Unmaps) -> None:
        """Tell them, one after the other."""

    @abstractmethod
    def mremap_follows(self, vma: Vma) -> bool:
        """Whether a registration goes along when its mapping moves."""

    @abstractmethod
    def mremap_prep(self, vma: Vma, old: int, new: int, length: int, moves: Moves) -> None:
        """A mapping whose registration follows has moved: who has to be told goes to `moves`."""

    @abstractmethod
    def mremap_complete(self, task: Task, moves: Moves) -> None:
        """Tell them, one after the other."""

    @abstractmethod
    def remove(self, task: Task, vma: Vma, start: int, end: int) -> bool:
        """Tell that pages are about to be dropped; whether that slept, so that all may differ.

        The mmap lock is held for reading, and let go while it sleeps.
        """

    # --- fork ------------------------------------------------------------------------------------

    @abstractmethod
    def dup(self, vma: Vma, twin: Vma, child: Mm, forks: Forks) -> None:
        """Register the child's mapping if it inherits; who has to be told goes to `forks`."""

    @abstractmethod
    def dup_complete(self, task: Task, forks: Forks) -> None:
        """Tell the parent's, one after the other."""


class Absent(Userfaultfd[Mm]):
    """A kernel without userfaultfd: nothing is ever registered, and nobody is told."""

    def fault(
        self, task: Task, vma: Vma, address: int, reason: int, *, write: bool, user: bool
    ) -> NoReturn:
        del task, vma, reason, write, user
        raise Signalled(signal.SIGBUS, BUS_ADRERR, address)

    def wp_async(self, vma: Vma) -> bool:
        del vma
        return False

    def rwp_async(self, vma: Vma) -> bool:
        del vma
        return False

    def wp_unpopulated(self, vma: Vma) -> bool:
        del vma
        return False

    def may_merge(self, vma: Vma, other: Vma) -> bool:
        del vma, other
        return True

    def unmap_prep(self, vma: Vma, start: int, end: int, unmaps: Unmaps) -> None:
        del vma, start, end, unmaps

    def unmap_complete(self, task: Task, unmaps: Unmaps) -> None:
        del task, unmaps

    def mremap_follows(self, vma: Vma) -> bool:
        del vma
        return False

    def mremap_prep(self, vma: Vma, old: int, new: int, length: int, moves: Moves) -> None:
        del vma, old, new, length, moves

    def mremap_complete(self, task: Task, moves: Moves) -> None:
        del task, moves

    def remove(self, task: Task, vma: Vma, start: int, end: int) -> bool:
        del task, vma, start, end
        return False

    def dup(self, vma: Vma, twin: Vma, child: Mm, forks: Forks) -> None:
        del vma, child, forks
        twin.reset_ctx()

    def dup_complete(self, task: Task, forks: Forks) -> None:
        del task, forks
