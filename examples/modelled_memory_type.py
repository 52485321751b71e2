"""A fifth memory type: a driver's own memory, with minor and missing faults, on the model.

What a type says is one table.  This driver numbers its pages; the rest is what such types share.
"""

from __future__ import annotations

from userfault.kernel.memtypes import BASE_PAGE as PAGE
from userfault.kernel.modes import Mode
from userfault.model.faces.kernel import ModelKernel
from userfault.model.files.folio import UPTODATE, Folio
from userfault.model.memtypes import pagecache
from userfault.model.memtypes.ops import Facts, MemoryOps, UffdOps, Where


def can_userfault(facts: Facts) -> bool:
    return facts.shared


def fault(where: Where) -> Folio:
    """A page that nobody has filled says which one it is."""
    assert where.object is not None
    folio = where.object.cache.get(where.index)
    if folio is not None:
        return pagecache.taken(folio)
    folio = pagecache.created(where, UPTODATE)
    folio.write(0, b"page %d" % where.index)
    return folio


DRIVER = MemoryOps(
    name="driver",
    uffd=UffdOps(
        can_userfault=can_userfault,
        get_folio_noalloc=pagecache.lookup,
        alloc_folio=pagecache.allocate,
        filemap_add=pagecache.add,
        filemap_remove=pagecache.remove,
    ),
    fault_folio=fault,
    cached=pagecache.cached,
    size_checked_at_entry=True,
    can_private=False,
)

if __name__ == "__main__":
    kernel = ModelKernel(types=[DRIVER])
    process = kernel.process()
    area = process.map_type("driver", 4 * PAGE)
    task = process.task()
    print(task.read(area.address, 6).result().data.decode(), "was made by the driver")
    uffd = process.userfaultfd()
    uffd.register(area.address, area.length, Mode.MISSING | Mode.MINOR)
    touch = task.read(area.address + PAGE, 12)
    kernel.settle()
    print(uffd.read()[0])
    uffd.copy(area.address + PAGE, b"a copied one".ljust(PAGE, b"\0"), PAGE)
    print(touch.result().data.decode(), "came from UFFDIO_COPY")
    kernel.check()
