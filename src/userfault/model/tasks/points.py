"""Every point of the model: a place where a task can be preempted or raced, and what it stands for.

A point stands where the real kernel lets go of what kept others out, or has not taken it yet.
What is one step here although the kernel takes several is listed in docs/explorer.md, with the
reason why nobody can see it.
"""

from __future__ import annotations

import msgspec


class Point(msgspec.Struct, frozen=True):
    """One: its name in traces, where the kernel is then (7.3 unless said), what can come between.

    `where`: of which function of the kernel.
    """

    name: str
    where: str
    between: str


_POINTS = (
    Point(
        "mmap.read",
        "mmap_read_lock()",
        "whoever holds the lock for writing changes mappings first",
    ),
    Point(
        "mmap.write",
        "mmap_write_lock()",
        "faults and fills that have begun end first, or another change of mappings comes first",
    ),
    Point(
        "vma.read",
        "lock_vma_under_rcu(), for a fault (since 6.6) and for COPY, ZEROPAGE, CONTINUE, POISON"
        " and MOVE (uffd_lock_vma(), since 6.9)",
        "the mapping changes or goes; other mappings may change while it is held",
    ),
    Point(
        "copy.user",
        "mfill_copy_folio_retry() between mfill_put_vma() and mfill_get_vma()",
        "everything: no lock is held while the source is read, which may itself be a userfault",
    ),
    Point(
        "fill.page",
        "mfill_atomic() and move_pages() from one page to the next: no page-table lock is held",
        "faults and fills of the pages that are left; the source goes",
    ),
    Point(
        "fill.install",
        "__mfill_atomic_pte() and mfill_atomic_pte_continue() before mfill_atomic_install_pte()"
        " takes the page-table lock; the folio is locked if it is in the page cache",
        "another fill or a fault installs the page, or a file is cut before the size is looked at",
    ),
    Point(
        "fill.wake",
        "userfaultfd_copy() and its like between mfill_atomic() and wake_userfault()",
        "the page is there and its waiters sleep; a message of it is read",
    ),
    Point(
        "protect.wake",
        "userfaultfd_writeprotect(), userfaultfd_rwprotect() before wake_userfault()",
        "the protection is gone and its waiters sleep",
    ),
    Point(
        "fault.queue",
        "handle_userfault(), called without the page-table lock under which the fault was decided",
        "the page is filled, or its protection lifted, and there is no waiter to be woken yet",
    ),
    Point(
        "fault.check",
        "handle_userfault() between fault_pending_wqh.lock and userfaultfd_must_wait()",
        "the message is read, the page is filled, the waiter is woken before it sleeps",
    ),
    Point(
        "fault.install",
        "do_read_fault() and its like between __do_fault() and finish_fault(): the folio is"
        " locked, the table is not",
        "a fill of the same page; for a hole of the file, which has its page now, too",
    ),
    Point(
        "fault.around",
        "do_read_fault() after do_fault_around(): the table is let go",
        "another task maps the page or changes it",
    ),
    Point(
        "cow.flush",
        "wp_page_copy() at ptep_clear_flush(): who looks without the lock finds nothing mapped",
        "a touch of a page of a private file mapping, which becomes a message where MISSING is"
        " registered (anonymous memory looks again under the lock)",
    ),
    Point(
        "folio.lock",
        "folio_lock() and filemap_get_folio() with FGP_LOCK: truncation, holes, read(2), write(2)",
        "whoever has the page locked maps it, fills it or takes it out of the cache first",
    ),
    Point(
        "truncate.unmap",
        "shmem_setattr() between i_size_write() and unmap_mapping_range()",
        "faults and fills see the new size while old pages are mapped",
    ),
    Point(
        "guard.install",
        "madvise_guard_install() between zap_vma_range() and the walk that it repeats",
        "a fault brings a page back, and it is zapped again",
    ),
    Point(
        "event.queue",
        "userfaultfd_remove() and its like between mmap_changing and"
        " userfaultfd_event_wait_completion(): no lock is held",
        "fills fail with EAGAIN and there is no event to be read yet",
    ),
    Point(
        "read.fork",
        "userfaultfd_ctx_read() while a FORK event is off its queue and a descriptor is made",
        "the forking task is killed, or the queue is read on",
    ),
    Point(
        "read.next",
        "userfaultfd_read_iter() from one message to the next",
        "a sender that was woken sends its next event",
    ),
    Point(
        "api.set",
        "userfaultfd_api() between copy_to_user() and cmpxchg() of the features",
        "another handshake",
    ),
    Point(
        "pick",
        "schedule(): a task sleeps or ends",
        "whoever can run goes on; a task that was woken goes on when it is picked",
    ),
)

POINTS = {point.name: point for point in _POINTS}
