"""Where a hook of a memory type is called: what it raises is looked at, what it broke is undone.

Here is what every call of a hook has in common, and the hooks that files ask for a page;
`memtypes.boundary` has those of userfaultfd.  Each function stands for one hook.  It returns what
the hook returned, or raises `Refused` (the hook's own answer) or `ContractBreach` (its mistake;
counts and locks are as before then).
"""

from __future__ import annotations

import errno
from collections.abc import Callable
from typing import TypeVar

from userfault.model.errors import ContractBreach, Errno, Refused
from userfault.model.files.folio import LOCKED, UPTODATE, Folio
from userfault.model.files.ops import FileOps, Where
from userfault.model.tasks.sched import Sched

T = TypeVar("T")


def fault_folio(sched: Sched, ops: FileOps, where: Where) -> Folio:
    """What a plain fault maps, locked and referenced."""
    hook = ops.fault_folio
    assert hook is not None
    there = where.object.cached(where.index) if where.object is not None else None
    before = there.refs if there is not None else 0
    flags = there.flags if there is not None else 0
    try:
        folio = called(sched, ops, "fault_folio", lambda: hook(where))
    except (Refused, ContractBreach):
        restore(there, before, flags)
        raise
    good = folio.__class__ is Folio and folio.flags & LOCKED and folio.flags & UPTODATE
    if good and (there is None or folio is there) and folio.refs >= 1:
        where.look()
        folio.record_taken()
        return folio
    restore(there, before, flags)
    if folio is not there:
        give_back(where, folio)
    raise ContractBreach(
        ops.name, "fault_folio", "it returned no folio of this page that is locked and up to date"
    )


def guest_folio(sched: Sched, ops: FileOps, where: Where) -> Folio:
    """What a guest's access maps, locked and referenced."""
    hook = ops.guest_folio
    assert hook is not None
    there = where.object.cached(where.index) if where.object is not None else None
    before = there.refs if there is not None else 0
    flags = there.flags if there is not None else 0
    folio = called(sched, ops, "guest_folio", lambda: hook(where))
    if folio.flags & LOCKED and folio.flags & UPTODATE and folio.object is where.object:
        where.look()
        folio.record_taken()
        return folio
    restore(there, before, flags)
    if folio is not there:
        give_back(where, folio)
    raise ContractBreach(
        ops.name, "guest_folio", "it returned no folio of this page that is locked and up to date"
    )


def called(sched: Sched, ops: FileOps, hook: str, call: Callable[[], T]) -> T:
    """Run one hook.  Raises Refused, or ContractBreach for anything else that it raises."""
    if sched.hook is not None:
        raise ContractBreach(*sched.hook, "it calls the core: the core alone calls hooks")
    sched.hook = (ops.name, hook)
    try:
        return call()
    except Refused as refusal:
        no_retry(ops, hook, refusal)
        raise
    except Exception as mistake:
        raise breach(ops, hook, mistake) from mistake
    finally:
        sched.hook = None


def breach(ops: FileOps, hook: str, mistake: Exception) -> ContractBreach:
    """What a hook raised, told as its mistake."""
    if isinstance(mistake, ContractBreach):
        return mistake
    told = f"errno {mistake.code}" if isinstance(mistake, Errno) else repr(mistake)
    return ContractBreach(ops.name, hook, f"it raised {told}")


def no_retry(ops: FileOps, hook: str, refusal: Refused) -> None:
    """EAGAIN is no answer of a hook."""
    if refusal.code == errno.EAGAIN:
        raise ContractBreach(ops.name, hook, "it asked for a retry: only the core retries")


def restore(folio: Folio | None, refs: int, flags: int) -> None:
    """The folio is counted, locked and up to date or not as it was before the hook."""
    if folio is not None:
        folio.refs = refs
        folio.flags = flags


def give_back(where: Where, folio: object) -> None:
    """What a hook made and returned in the wrong way: unlocked, its reference dropped."""
    if folio.__class__ is not Folio:
        return
    assert isinstance(folio, Folio)
    folio.flags &= ~LOCKED
    if folio.refs > (folio.object is not None):  # what its cache holds is not ours
        where.memory.put(folio)
