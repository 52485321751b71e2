"""Where the core calls what userfaultfd needs of a memory type: checked, and undone if broken.

Each function stands for one hook, as in `files.boundary`, which has what they share.  The hooks of
a type that is `unchecked` are called as Linux calls them, and nothing is looked at.
"""

from __future__ import annotations

import errno
from collections.abc import Callable

from userfault.model.errors import ContractBreach, Refused
from userfault.model.files.boundary import breach, called, no_retry, restore
from userfault.model.files.folio import LOCKED, UPTODATE, Folio, Object
from userfault.model.memtypes.ops import Facts, MemoryOps, Where
from userfault.model.tasks.recorder import RECORD
from userfault.model.tasks.sched import Sched
from userfault.uapi import userfaultfd as abi


def can_userfault(sched: Sched, ops: MemoryOps, facts: Facts) -> bool:
    """Whether this mapping may be registered with these modes; False without a table."""
    if ops.uffd.can_userfault is None:
        return False
    decide = ops.uffd.can_userfault
    if ops.unchecked:
        return bool(decide(facts))
    first = called(sched, ops, "can_userfault", lambda: decide(facts))
    if first is not called(sched, ops, "can_userfault", lambda: decide(facts)):
        raise ContractBreach(ops.name, "can_userfault", "it answers differently when asked twice")
    if first and facts.modes & abi.UFFDIO_REGISTER_MODE_MINOR and not ops.can_continue:
        raise ContractBreach(ops.name, "can_userfault", "it says yes to MINOR and finds no pages")
    return bool(first)


def get_folio(sched: Sched, ops: MemoryOps, target: Object, index: int) -> Folio:
    """The cached folio, locked and referenced."""
    hook = ops.uffd.get_folio_noalloc
    if hook is None:
        raise Refused(errno.EINVAL)
    there = target.cached(index)
    before = there.refs if there is not None else 0
    flags = there.flags if there is not None else 0
    pages = len(target.cache)
    if ops.unchecked:
        folio = hook(target, index)
        folio.record_taken()
        return folio
    sched.hook = (ops.name, "get_folio_noalloc")
    try:
        folio = hook(target, index)
    except Refused as refusal:
        sched.hook = None
        restore(there, before, flags)
        no_retry(ops, "get_folio_noalloc", refusal)
        raise
    except Exception as mistake:
        sched.hook = None
        restore(there, before, flags)
        raise breach(ops, "get_folio_noalloc", mistake) from mistake
    sched.hook = None
    if (
        folio is there
        and folio.refs == before + 1
        and folio.flags & (LOCKED | UPTODATE) == LOCKED | UPTODATE
        and index < target.pages()
    ):
        folio.record_taken()
        return folio
    rule = _what_is_wrong(target, index, folio, there, before, pages)
    if folio.__class__ is Folio and folio is not there and folio.refs > 1:
        folio.refs -= 1  # it was counted for us
        folio.flags &= ~LOCKED
    restore(there, before, flags)
    raise ContractBreach(ops.name, "get_folio_noalloc", rule)


def _what_is_wrong(
    target: Object, index: int, folio: object, there: Folio | None, before: int, pages: int
) -> str:
    if not isinstance(folio, Folio):
        return f"it returned {folio!r}, not a folio"
    rules = (
        (len(target.cache) != pages, "it created a page: it must never allocate"),
        (index >= target.pages(), "it returned a folio beyond the end of the file"),
        (folio is not there, "it returned a folio of another object or index"),
        (folio.refs != before + 1, "it returned a folio without taking one reference"),
        (not folio.flags & LOCKED, "it returned an unlocked folio"),
        (True, "it returned a folio that is not up to date"),
    )
    return next(rule for broken, rule in rules if broken)


def alloc_folio(sched: Sched, ops: MemoryOps, where: Where) -> Folio | None:
    """A new folio that nobody else sees, or None."""
    return _made(sched, ops, "alloc_folio", ops.uffd.alloc_folio, where)


def private_folio(sched: Sched, ops: MemoryOps, where: Where) -> Folio | None:
    """A new folio for a private mapping, or None."""
    return _made(sched, ops, "private_folio", ops.private_folio, where)


def _made(
    sched: Sched,
    ops: MemoryOps,
    name: str,
    hook: Callable[[Where], Folio | None] | None,
    where: Where,
) -> Folio | None:
    if hook is None:
        raise Refused(errno.EINVAL)
    if sched.hook is not None:
        raise ContractBreach(*sched.hook, "it calls the core: the core alone calls hooks")
    where.look()
    if ops.unchecked:
        return hook(where)
    folios = where.memory.folios
    blocks = where.object.blocks if where.object is not None else 0
    sched.hook = (ops.name, name)
    try:
        folio = hook(where)
    except Refused as refusal:
        no_retry(ops, name, refusal)
        raise
    except Exception as mistake:
        raise breach(ops, name, mistake) from mistake
    finally:
        sched.hook = None
    if folio is None:
        return None
    if folio.__class__ is not Folio:
        raise ContractBreach(ops.name, name, f"it returned {folio!r}, not a folio")
    if where.memory.folios == folios:
        raise ContractBreach(ops.name, name, "it returned a folio that somebody has")
    _check_new(ops, name, where, folio, blocks)
    return folio


def _check_new(ops: MemoryOps, name: str, where: Where, folio: Folio, blocks: int) -> None:
    """It is ours alone, and of the right size."""
    if folio.refs != 1 or folio.mapcount or folio.object is not None or folio.flags & LOCKED:
        if folio.object is not None:
            folio.object.remove(folio)
        folio.flags &= ~LOCKED
        folio.refs = 1
        where.memory.put(folio)
        if where.object is not None:
            _settle_blocks(where.object, blocks)
        raise ContractBreach(
            ops.name, name, "the new folio is visible, locked or counted by others"
        )
    if folio.order + 12 != where.shift:
        where.memory.put(folio)
        raise ContractBreach(ops.name, name, "the new folio has the wrong size")


def undo_alloc(sched: Sched, ops: MemoryOps, where: Where, folio: Folio) -> None:
    """Give the folio and what came with it back."""
    try:
        if ops.undo_alloc is not None:
            undo = ops.undo_alloc
            called(sched, ops, "undo_alloc", lambda: undo(where, folio))
    finally:
        where.memory.put(folio)


def filemap_add(sched: Sched, ops: MemoryOps, folio: Folio, where: Where) -> None:
    """Insert a finished folio: afterwards it is locked and cached."""
    hook = ops.uffd.filemap_add
    target = where.object
    assert hook is not None
    assert target is not None
    occupied = target.cached(where.index)
    target.pages()
    blocks = target.blocks
    if ops.unchecked:
        hook(folio, where)
        return
    try:
        called(sched, ops, "filemap_add", lambda: hook(folio, where))
    except Refused:
        clean = target.cache.get(where.index) is occupied and not folio.flags & LOCKED
        if clean and folio.refs == 1 and target.blocks == blocks:
            raise
        _take_out(target, where.index, folio, occupied)
        _settle_blocks(target, blocks)
        raise ContractBreach(
            ops.name, "filemap_add", "it refused and left something behind"
        ) from None
    except ContractBreach:
        _take_out(target, where.index, folio, occupied)
        _settle_blocks(target, blocks)
        raise
    cached = target.cache.get(where.index)
    if cached is folio and folio.object is target and folio.flags & LOCKED and folio.refs == 2:
        if occupied is None and where.index < target.pages():
            return
        rule = "it replaced a page that was there, or inserted one beyond the end of the file"
    elif cached is not folio:
        rule = "it said yes and did not insert the folio"
    elif not folio.flags & LOCKED:
        rule = "it inserted the folio unlocked"
    else:
        rule = "it inserted the folio and miscounted its references"
    _take_out(target, where.index, folio, occupied)
    _settle_blocks(target, blocks)
    raise ContractBreach(ops.name, "filemap_add", rule)


def filemap_remove(sched: Sched, ops: MemoryOps, folio: Folio, target: Object) -> None:
    """Undo `filemap_add`."""
    hook = ops.uffd.filemap_remove
    assert hook is not None
    if ops.unchecked:
        hook(folio, target)
        return
    index = folio.index
    left = folio.refs - 1  # ours, and those of tasks that wait for its lock
    blocks = target.blocks - (target.mount is not None)
    try:
        called(sched, ops, "filemap_remove", lambda: hook(folio, target))
        removed = target.cache.get(index) is not folio and target.blocks == blocks
        if removed and not folio.flags & LOCKED and folio.refs == left:
            return
        raise ContractBreach(ops.name, "filemap_remove", "it did not undo filemap_add exactly")
    except (Refused, ContractBreach):
        _take_out(target, index, folio, None)
        folio.refs = left
        _settle_blocks(target, blocks)
        raise


def _take_out(target: Object, index: int, folio: Folio, occupied: Folio | None) -> None:
    """Whatever the hook did to the cache at `index`: as it was, and the folio ours alone."""
    if RECORD.on:
        RECORD.writes.update((("slot", target.number, index), ("page", folio.number)))
        RECORD.adds.add(("refs", folio.number))
    for at in [at for at, held in target.cache.items() if held is folio]:
        del target.cache[at]
    if occupied is not None:
        target.cache[index] = occupied
        occupied.object = target
        occupied.index = index
    folio.object = None
    folio.refs = 1
    folio.flags &= ~LOCKED


def _settle_blocks(target: Object, blocks: int) -> None:
    if target.mount is not None:
        target.mount.used += blocks - target.blocks
        target.blocks = blocks
