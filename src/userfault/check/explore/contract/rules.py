"""The ten rules, and which of them a violation breaks."""

from __future__ import annotations

from userfault.check.explore.steps import Violation
from userfault.model.errors import ContractBreach

RULES = {
    1: "can_userfault depends on its arguments alone",
    2: "get_folio_noalloc creates nothing: the cached folio, locked, counted, inside the file",
    3: "alloc_folio gives a new folio that nobody sees, and none beyond the end of the file",
    4: "filemap_add inserts and locks, or refuses and has changed nothing",
    5: "filemap_remove is the exact inverse of filemap_add",
    6: "a COPY that failed leaves counts and page cache as they were",
    7: "beyond the end of the file a touch is SIGBUS, never a message",
    8: "of two COPYs of one page exactly one succeeds, the other is EEXIST",
    9: "no mapping keeps a page that a hole has taken out",
    10: "nobody reads a byte that was not in the source of the COPY",
}
_OF_HOOK = {
    "can_userfault": 1,
    "get_folio_noalloc": 2,
    "alloc_folio": 3,
    "undo_alloc": 3,
    "filemap_add": 4,
    "filemap_remove": 5,
}
# Rules of the model that break for one cause alone: whose rule of the contract that is.
_OF_INVARIANT = {"end-of-file": 7, "unlocked-once": 4}


def rule_of(violation: Violation, about: int) -> int:
    """The rule that is broken, in a scenario `about` one: a scenario may meet a breach of another.

    The boundary names the hook.  Where nobody looks at hooks a rule of the model breaks: it is the
    one that the scenario is about, unless what is wrong can have one cause alone.
    """
    if violation.name == "contract":
        for hook, rule in _OF_HOOK.items():
            if f"contract of {hook}" in violation.text:
                return rule
    if about == 6:  # a page that is lost is one of the things that a failed COPY leaves behind
        return about
    return _OF_INVARIANT.get(violation.name, about)


def rule_of_breach(breach: ContractBreach, about: int) -> int:
    """The same of a hook's breach before any task ran."""
    return _OF_HOOK.get(breach.hook, about)
