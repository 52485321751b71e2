"""Old bugs of Linux that can be put back, each by its name.

The model asks `if "name" in machine.bugs` where the kernel had the bug; here is what it was.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from userfault.kernel.errors import UsageError


class Switch(msgspec.Struct, frozen=True):
    """One bug: what went wrong, and what ended it.

    `commit`, `subject`, `release`: of the fix, or `subject` alone: a mail.  `found_by`: the
    scenario that finds it, within so many `schedules`, on `kernel`.
    """

    name: str
    sentence: str
    commit: str
    subject: str
    release: str
    found_by: str
    schedules: int
    kernel: str = "next"

    @property
    def fix(self) -> str:
        """In drgn's form, or the mail."""
        if not self.commit:
            return f"mail: {self.subject}"
        return f'Linux commit {self.commit} ("{self.subject}") (in {self.release})'


_SWITCHES = (
    Switch(
        "copy-retry-unchecked",
        "a COPY whose source had to be faulted in fills whatever is mapped there by then",
        "85668fda932a",
        "userfaultfd: verify VMA state across UFFDIO_COPY retry",
        "v7.1",
        "copy-into-a-replaced-mapping",
        10,
    ),
    Switch(
        "private-copy-in-file",
        "COPY into a private mapping of shmem fills the file, and maps its page writable",
        "5b51072e97d5",
        "userfaultfd: shmem: allocate anonymous memory for MAP_PRIVATE shmem",
        "v4.20",
        "copy-into-a-private-file-mapping",
        10,
    ),
    Switch(
        "registers-unwritable",
        "shared mappings of files that were opened for reading register, and COPY writes them",
        "29ec90660d68",
        "userfaultfd: shmem/hugetlbfs: only allow to register VM_MAYWRITE vmas",
        "v4.20",
        "register-what-must-not-be-written",
        1,
    ),
    Switch(
        "huge-fill-beyond-end",
        "COPY puts a huge page into the cache beyond the end of its file",
        "1e3921471354",
        "userfaultfd: hugetlbfs: prevent UFFDIO_COPY to fill beyond the end of i_size",
        "v4.14",
        "huge-fill-of-a-shortened-file",
        10,
    ),
    Switch(
        "fills-during-events",
        "pages are filled while an event is pending",
        "df2cc96e7701",
        "userfaultfd: prevent non-cooperative events vs mcopy_atomic races",
        "v4.18",
        "fill-against-a-removal",
        10,
    ),
    Switch(
        "events-do-not-wait",
        "an event does not wait for the fills that have begun",
        "5e4c24a57b0c",
        "userfaultfd: protect mmap_changing with rw_sem in userfaulfd_ctx",
        "v6.9",
        "fill-against-a-removal",
        50,
    ),
    Switch(
        "removal-of-old-mapping",
        "MADV_DONTNEED goes on with the mapping that it found before its event was read",
        "70ccb92fdd90",
        "userfaultfd: non-cooperative: userfaultfd_remove revalidate vma in MADV_DONTNEED",
        "v4.11",
        "removal-of-a-replaced-mapping",
        10,
    ),
    Switch(
        "child-keeps-context",
        "a child stays registered with a context that nobody can ever hold",
        "0cbb4b4f4c44",
        "userfaultfd: clear the vma->vm_userfaultfd_ctx if UFFD_EVENT_FORK fails",
        "v4.15",
        "fork-whose-monitor-closes",
        10,
    ),
    Switch(
        "changing-is-a-flag",
        "the end of one event opens the gate while another one is pending",
        "a759a909d42d",
        "userfaultfd: change mmap_changing to atomic",
        "v5.15",
        "two-removals-at-once",
        10,
    ),
    Switch(
        "handshake-twice",
        "two threads set the features of one descriptor",
        "22e5fe2a2a27",
        "userfaultfd: prevent concurrent API initialization",
        "v5.15",
        "two-handshakes",
        10,
    ),
    Switch(
        "no-second-look",
        "a fault sleeps on a page that was filled before its message could be seen",
        "8d2afd96c203",
        "userfaultfd: solve the race between UFFDIO_COPY|ZEROPAGE and read",
        "v4.3",
        "two-readers-one-copy",
        10,
    ),
    Switch(
        "huge-continue-reserves",
        "a CONTINUE of a huge page that fails gives back a reservation that it never took",
        "cc30042df6fc",
        "hugetlb, userfaultfd: fix reservation restore on userfaultfd error",
        "v5.16",
        "two-continues-of-a-huge-page",
        10,
    ),
    Switch(
        "unregister-keeps-protection",
        "UNREGISTER leaves pages protected",
        "f369b07c8614",
        "mm/uffd: reset write protection when unregister with wp-mode",
        "v6.0",
        "unregister-of-protected-memory",
        10,
    ),
    Switch(
        "close-keeps-protection",
        "close(2) leaves pages protected",
        "c88033efe9a3",
        "mm/userfaultfd: reset ptes when close() for wr-protected ones",
        "v6.9",
        "close-of-protected-memory",
        10,
    ),
    Switch(
        "fork-keeps-markers",
        "a child without a registration has markers of its parent's",
        "49d6d7fb6313",
        "mm/uffd: fix pte marker when fork() without fork event",
        "v6.2",
        "fork-of-protected-memory",
        10,
    ),
    Switch(
        "mremap-keeps-protection",
        "memory that moves away from its registration stays protected",
        "0cef0bb836e3",
        "mm: clear uffd-wp PTE/PMD state on mremap()",
        "v6.13",
        "mremap-of-protected-memory",
        10,
    ),
    Switch(
        "fault-retried-once",
        "a touch that has to wait twice gets SIGBUS",
        "4064b9827063",
        "mm: allow VM_FAULT_RETRY for multiple times",
        "v5.7",
        "two-faults-of-one-touch",
        20,
    ),
    Switch(
        "read-only-fill-unprotected",
        "COPY with MODE_WP into read-only memory does not protect",
        "0e88904cb700",
        "userfaultfd: mark uffd_wp regardless of VM_WRITE flag",
        "v5.18",
        "protected-fill-of-read-only-memory",
        10,
    ),
    Switch(
        "leaks-after-retry",
        "COPY keeps the page that it filled outside of the lock when the file system is full",
        "7ed9d238c7db",
        "userfaultfd: release page in error path to avoid BUG_ON",
        "v5.13",
        "copy-into-a-full-file-system",
        20,
    ),
    Switch(
        "foreign-unregister",
        "any descriptor of a process unregisters the ranges of another",
        "23ec90eb122f",
        "userfaultfd: prevent unregistering VMAs through a different userfaultfd",
        "v6.17",
        "unregister-by-another-descriptor",
        10,
    ),
    Switch(
        "registers-droppable",
        "MAP_DROPPABLE memory registers",
        "7208cc6497c2",
        "userfaultfd: correctly prevent registering VM_DROPPABLE regions",
        "v6.17",
        "register-droppable-memory",
        10,
    ),
    Switch(
        "mprotect-lifts-protection",
        "mprotect(2) gives protected shared pages back writable",
        "51d3d5eb74ff",
        "mm/userfaultfd: enable writenotify while userfaultfd-wp is enabled for a VMA",
        "v6.2",
        "mprotect-of-protected-memory",
        10,
    ),
    Switch(
        "registers-special",
        "shadow stacks and other special mappings register for write tracking",
        "",
        "userfaultfd: prevent registration of special VMAs, v2, linux-mm, 2026-06-18",
        "",
        "register-special-memory",
        10,
    ),
    Switch(
        "guest-memfd-stale",
        "CONTINUE of guest_memfd shows what the memory held before",
        "",
        "KVM: guest_memfd: implement userfaultfd operations, v2, as posted to linux-mm on "
        "2026-03-06",
        "",
        "continue-of-what-nobody-wrote",
        10,
    ),
    Switch(
        "guest-memfd-no-end",
        "a touch beyond the end of a guest_memfd waits for a page that nobody can fill",
        "",
        "mm: generalize handling of userfaults in __do_fault(), v2, as posted to linux-mm "
        "on 2026-03-06",
        "",
        "touch-beyond-the-end",
        10,
    ),
)

SWITCHES = {switch.name: switch for switch in _SWITCHES}


def bugs_named(names: Iterable[str]) -> frozenset[str]:
    """The names, once each is known.  Raises UsageError."""
    found = frozenset(names)
    for name in sorted(found - SWITCHES.keys()):
        raise UsageError(
            f"no old bug is called {name!r}",
            cause=f"those that can be put back are {', '.join(SWITCHES) or 'none'}",
            cure="`userfault explore --list` tells what each is",
        )
    return found
