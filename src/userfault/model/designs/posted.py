"""The five hooks with guest_memfd's as they were posted in March 2026, its flaws included.

The hooks are called as Linux calls them: nobody looks at what they did.  The flaws by letters:

a. `get_folio_noalloc` gives out what nobody has cleared; who comes next by another way clears it.
b. the core decides on a message before it looks at the end of the file.
c. to decide on a message the core looks the page up: locked, and read from swap.
d. whether a page may be seen is asked of the file, not of the index.
f. a page is prepared once it is cached (a downstream fix-up does so), and stays if that fails.
h. no feature bit tells that it works.
l. `filemap_add` unlocks a folio that the refused insertion has unlocked (`Memory.bad_unlocks`).
"""

from __future__ import annotations

import errno

from msgspec.structs import replace

from userfault.model.designs import merged
from userfault.model.designs.design import Design
from userfault.model.errors import Refused
from userfault.model.files.folio import LOCKED, Folio, Object
from userfault.model.memtypes import pagecache
from userfault.model.memtypes.guest_memfd import GUEST_MEMFD, prepare
from userfault.model.memtypes.ops import MemoryOps, UffdOps, Where


def _get(target: Object, index: int) -> Folio:
    folio = target.cached(index)
    if folio is None or index >= target.pages():
        raise Refused(errno.EFAULT)
    folio.refs += 1
    folio.flags |= LOCKED  # and whatever it held before it was allocated is shown (flaw a)
    return folio


def _add(folio: Folio, where: Where) -> None:
    assert where.object is not None
    try:
        pagecache.add(folio, where)  # __filemap_add_folio() unlocks what it refuses
    except Refused:
        where.memory.unlock(folio)  # and the hook unlocks it again (flaw l)
        raise
    prepare(where)  # too late: a refusal leaves the page behind, locked (flaw f)


TABLE = UffdOps(
    can_userfault=GUEST_MEMFD.uffd.can_userfault,  # of the file, once (flaw d)
    get_folio_noalloc=_get,
    alloc_folio=pagecache.allocate,
    filemap_add=_add,
    filemap_remove=pagecache.remove,
)


def _calls(ops: MemoryOps) -> MemoryOps:
    if ops.name == GUEST_MEMFD.name and ops.uffd.can_userfault is not None:
        return replace(ops, uffd=TABLE, unchecked=True, says={}, runs={})
    return merged.calls(ops)


POSTED = Design(
    name="posted",
    sentence="the merged hooks, with guest_memfd as it was posted in March 2026",
    source="mm, kvm: allow uffd support in guest_memfd, v2 (linux-mm, 2026-03-06)",
    calls=_calls,
    table=UffdOps,
    exports=("filemap_remove_folio()",),
    bugs=frozenset({"guest-memfd-no-end", "asks-by-lookup"}),
    says_guest_memfd=False,
)
