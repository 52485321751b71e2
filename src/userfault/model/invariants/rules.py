"""Every rule by name, with its sentence and where it comes from.

Sources: *reviewers* are what the review of `vm_uffd_ops` demanded (linux-mm, 2025 to 2026),
*contract* what the author of a memory type has to keep (userfault.model.memtypes.ops).
"""

from __future__ import annotations

from userfault.model.invariants import accounts, entries, filling, waiting
from userfault.model.invariants.rule import Rule

_PAGES = frozenset({"entry", "huge"})
_CACHE = frozenset({"slot"})
_FILL = frozenset({"fill"})
_COUNTED = frozenset({"entry", "huge", "slot", "refs", "page", "pool"})

_RULES = (
    Rule(
        "own-page",
        "no folio is reachable from an entry that it does not belong to",
        "reviewers: core mm alone installs entries, and looks at file, offset and type again;"
        " contract: a hole between insertion and installation leaves no stale mapping",
        entries.own_page,
        _PAGES,
    ),
    Rule(
        "whole",
        "nobody sees a page before all of its content is there",
        "reviewers: a folio enters the page cache when its whole content is valid; contract:"
        " another mapping, or the guest, reads no byte that was not in the source",
        entries.whole,
        _PAGES | _CACHE,
    ),
    Rule(
        "in-file",
        "no entry and no cached page lies beyond the end of its file, but while it is cut",
        "reviewers: core validates the index against i_size under the page-table lock;"
        " Linux commit 1e3921471354"
        ' ("userfaultfd: hugetlbfs: prevent UFFDIO_COPY to fill beyond the end of i_size")'
        " (in v4.14)",
        entries.in_file,
        _PAGES | _CACHE | {"cut"},
    ),
    Rule(
        "protected",
        "a protected page is never written without a message or the mark of WP_ASYNC",
        "Documentation/admin-guide/mm/userfaultfd.rst, write protect notifications",
        entries.protected,
        _PAGES | _FILL,
    ),
    Rule(
        "unprotected",
        "where nothing is registered, no page is protected and no marker is left",
        "Linux commit f369b07c8614"
        ' ("mm/uffd: reset write protection when unregister with wp-mode") (in v6.0)',
        entries.unprotected,
        _PAGES | {"maps"},
    ),
    Rule(
        "core-alone",
        "only the core installs, changes and removes entries",
        "reviewers: no hook receives an entry, a page-table lock or an mm",
        entries.core_alone,
        frozenset({"hook"}),
    ),
    Rule(
        "filled-once",
        "a page is filled at most once, and never overwritten",
        "ioctl_userfaultfd(2): EEXIST; contract: of two fills of an index one succeeds",
        filling.filled_once,
        _FILL,
    ),
    Rule(
        "filled-as-checked",
        "a fill ends in the mapping, file and offset that were checked when it began",
        "reviewers: after the locks were dropped everything is checked again",
        filling.filled_as_checked,
        _FILL,
    ),
    Rule(
        "event-gate",
        "nothing is filled through a descriptor that has an event announced or pending",
        "Linux commit df2cc96e7701"
        ' ("userfaultfd: prevent non-cooperative events vs mcopy_atomic races") (in v4.18)',
        filling.event_gate,
        _FILL | {"events", "changing"},
    ),
    Rule(
        "live-mapping",
        "pages go through a mapping that is there",
        "Linux commit 70ccb92fdd90"
        ' ("userfaultfd: non-cooperative: userfaultfd_remove revalidate vma in MADV_DONTNEED")'
        " (in v4.11)",
        filling.live_mapping,
        frozenset({"zap"}),
    ),
    Rule(
        "registrations",
        "no mapping is registered whose type cannot serve it, or that must not be written",
        "reviewers: registration is impossible on special mappings, and decided by the type",
        waiting.registrations,
        frozenset({"registered"}),
    ),
    Rule(
        "mappings",
        "mappings do not overlap and are registered with open descriptors of their process",
        "mm/vma.c, mm/userfaultfd.c: a context is set if and only if a mode is",
        waiting.mappings,
        frozenset({"maps"}),
    ),
    Rule(
        "owner-alone",
        "a range is unregistered by its own descriptor",
        "Linux commit 23ec90eb122f"
        ' ("userfaultfd: prevent unregistering VMAs through a different userfaultfd")'
        " (in v6.17)",
        waiting.owner_alone,
        frozenset({"unregistered"}),
    ),
    Rule(
        "features-once",
        "the features of a descriptor are set once",
        "Linux commit 22e5fe2a2a27"
        ' ("userfaultfd: prevent concurrent API initialization") (in v5.15)',
        waiting.features_once,
        frozenset({"features"}),
    ),
    Rule(
        "waiters",
        "no waiter is lost: none sleeps on a page that is there or after its wake-up",
        "Linux commit 8d2afd96c203"
        ' ("userfaultfd: solve the race between UFFDIO_COPY|ZEROPAGE and read") (in v4.3)',
        waiting.waiters,
        frozenset({"sleeps", "woken", "queue", "context", "closed"}),
    ),
    Rule(
        "end-of-file",
        "beyond the end of a file a touch is SIGBUS, never a message",
        "contract: beyond EOF a fault is SIGBUS, never a userfault",
        waiting.end_of_file,
        frozenset({"decided"}),
    ),
    Rule(
        "served",
        "a touch that its descriptor would serve is not refused",
        'Linux commit 4064b9827063 ("mm: allow VM_FAULT_RETRY for multiple times") (in v5.7)',
        waiting.served,
        frozenset({"refused"}),
    ),
    Rule(
        "counts",
        "references and mappings of every folio are exact, and none is leaked",
        "reviewers: if installation fails, insertion and accounting are undone; contract:"
        " the remove hook is the exact inverse of the add hook",
        accounts.counts,
        _COUNTED,
    ),
    Rule(
        "unlocked-once",
        "nobody unlocks a folio that is not locked",
        "VM_BUG_ON_FOLIO() of folio_unlock(); with page checks on it is 'Bad page state', and the"
        " page is lost; contract: an insertion that is refused has changed nothing",
        accounts.unlocked_once,
        frozenset({"unlocked twice"}),
    ),
    Rule(
        "accounts",
        "memory, cgroups, blocks and hugetlb pools add up",
        "reviewers: accounting is balanced on every path; contract: after a failed COPY all"
        " accounts are unchanged",
        accounts.accounts,
        _COUNTED,
    ),
    Rule(
        "contract",
        "a memory type keeps the contract of its hooks",
        "contract: rules 1 to 6 of userfault.model.memtypes.ops, looked at around every hook",
        filling.contract,
        frozenset({"lock"}),
    ),
)

RULES = {rule.name: rule for rule in _RULES}
