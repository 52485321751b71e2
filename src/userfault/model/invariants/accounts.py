"""What is counted: references, mappings, memory, cgroups, blocks, pools."""

from __future__ import annotations

from collections import Counter

from userfault.model.files import folio as folios
from userfault.model.invariants.rule import Seen, broken
from userfault.model.mm.address_space import Spaces


def counts(seen: Seen) -> None:
    """Each folio has as many references and mappings as there are, and none is leaked."""
    ledger = seen.ledger
    for folio in ledger.update(seen.places):
        refs = ledger.refs.get(folio, 0)
        if folio.refs != refs:
            broken(f"{folio.name} is referred to {refs} times")
        if folio.mapcount != ledger.maps.get(folio, 0):
            broken(f"{folio.name} is mapped {ledger.maps.get(folio, 0)} times")
        if folio.flags & folios.LOCKED and refs and folio not in seen.spaces.files.memory.in_hand:
            broken(f"{folio.name} is locked and nobody works on it")
    exist = seen.spaces.files.memory.folios
    if exist != len(ledger.refs):
        broken(f"{exist} folios exist and {len(ledger.refs)} are in use: the rest leaked")


def unlocked_once(seen: Seen) -> None:
    """Nobody unlocks a folio that is not locked."""
    for _, name in seen.did("unlocked twice"):
        broken(f"{name} was not locked when it was unlocked")


def accounts(seen: Seen) -> None:
    """Memory, cgroups, blocks of file systems and hugetlb pools add up."""
    spaces = seen.spaces
    memory = spaces.files.memory
    pages = 0
    charged: Counter[object] = Counter()
    huge: Counter[int] = Counter()
    for folio in seen.ledger.refs:
        if folio.flags & folios.LARGE_POOL:
            huge[folio.order + 12] += 1
        else:
            pages += 1 << folio.order
            charged[folio.cgroup] += 1 << folio.order
    if pages != memory.used:
        broken(f"{memory.used} base pages are counted and {pages} are in use")
    for mm in spaces.all:
        if mm.cgroup.charged != charged[mm.cgroup]:
            broken(f"a cgroup is charged {mm.cgroup.charged} pages and has {charged[mm.cgroup]}")
    for target in spaces.files.inodes:
        if target.mount is not None and target.blocks != len(target.cache):
            broken(f"{target.name} has {target.blocks} blocks for {len(target.cache)} pages")
    for shift, pool in memory.pools.items():
        if pool.total or pool.reserved or huge[shift]:
            _pool(spaces, shift, huge[shift])


def _pool(spaces: Spaces, shift: int, used: int) -> None:
    pool = spaces.files.memory.pools[shift]
    promised = sum(len(target.promised) for target in spaces.files.inodes if target.shift == shift)
    own = {
        id(vma.promised): len(vma.promised)
        for mm in spaces.all
        for vma in mm.vmas.values()
        if vma.promised is not None and vma.shift == shift
    }
    promised += sum(own.values())
    if pool.free + used != pool.total:
        broken(f"the pool of {1 << shift} has {pool.total}, {pool.free} free and {used} used")
    if pool.reserved != promised or pool.reserved > pool.free:
        broken(f"the pool of {1 << shift} has {pool.reserved} promised and owes {promised}")
