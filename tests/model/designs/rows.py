"""Which statements a design cannot keep, and why: rows of docs/designs.md."""

from __future__ import annotations

_NO_GUEST = "the core does not know guest_memfd, and nothing can tell it"
_CONTINUE_ALONE = "guest_memfd can have CONTINUE alone: its missing pages nobody can make"
_MASK = "a mask is that of the type: a guest_memfd that may not be touched registers, too"
_BEYOND = "whether a message is sent is decided before the end of the file is looked at (flaw b)"
_BY_PAGE_SIZE = "hugetlb is known by its mapping's flag, and so are SysV segments of huge pages"

_SILENT = "no bit tells: only a trial registration does (flaw h)"
_STALE = "the lookup gives out what nobody has cleared (flaw a)"
_BY_FILE = "the lookup asks the file, not the index (flaw d)"

# Statements of a kernel that serves guest_memfd, but for the one of its feature bit (229).
_SERVED = {
    number: (number, "guest_memfd") for number in (*range(228, 250),) if number not in (229, 239)
}
_BY_CONTINUE = (235, 236, 242, 243)  # those that need MINOR and CONTINUE alone

# By design: (number, memory) and the reason.
ROWS: dict[str, dict[tuple[int, str], str]] = {
    "hardcoded": {
        (36, ""): _BY_PAGE_SIZE,
        (41, "guest_memfd"): _NO_GUEST,
        (204, "guest_memfd"): _NO_GUEST,
        (229, ""): _NO_GUEST,
        **dict.fromkeys(_SERVED.values(), _NO_GUEST),
    },
    "uffd_copy": {(208, ""): _MASK, (230, "guest_memfd"): _MASK},
    "get_folio_only": {
        (41, "guest_memfd"): _CONTINUE_ALONE,
        (204, "guest_memfd"): _CONTINUE_ALONE,
        (208, ""): _MASK,
        (229, ""): _CONTINUE_ALONE,
        **{case: _CONTINUE_ALONE for number, case in _SERVED.items() if number not in _BY_CONTINUE},
    },
    "per_operation": {},
    "closed_choice": {},
    "merged": {},
    "posted": {
        (130, "shmem"): _BEYOND,
        (130, "shmem-private"): _BEYOND,
        (237, "guest_memfd"): _BEYOND,
        (229, ""): _SILENT,
        (235, "guest_memfd"): _STALE,
        (243, "guest_memfd"): _STALE,
        (248, "guest_memfd"): _BY_FILE,
    },
    "ours": {},
}
