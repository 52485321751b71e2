"""Which statements a design cannot keep, and why: rows of docs/designs.md."""

from __future__ import annotations

_NO_GUEST = "the core does not know guest_memfd, and nothing can tell it"
_CONTINUE_ALONE = "guest_memfd can have CONTINUE alone: its missing pages nobody can make"
_MASK = "a mask is that of the type: a guest_memfd that may not be touched registers, too"
_BEYOND = "whether a message is sent is decided before the end of the file is looked at (flaw b)"
_BY_PAGE_SIZE = "hugetlb is known by its mapping's flag, and so are SysV segments of huge pages"

# By design: (number, memory) and the reason.
ROWS: dict[str, dict[tuple[int, str], str]] = {
    "hardcoded": {
        (36, ""): _BY_PAGE_SIZE,
        (41, "guest_memfd"): _NO_GUEST,
        (204, "guest_memfd"): _NO_GUEST,
    },
    "uffd_copy": {(208, ""): _MASK},
    "get_folio_only": {
        (41, "guest_memfd"): _CONTINUE_ALONE,
        (204, "guest_memfd"): _CONTINUE_ALONE,
        (208, ""): _MASK,
    },
    "per_operation": {},
    "closed_choice": {},
    "merged": {},
    "posted": {(130, "shmem"): _BEYOND, (130, "shmem-private"): _BEYOND},
    "ours": {},
}
