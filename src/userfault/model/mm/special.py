"""The mappings that every process has from its start: vdso and vvar."""

from __future__ import annotations

from userfault.kernel.memtypes import BASE_PAGE as PAGE
from userfault.model.memtypes.ops import MemoryOps
from userfault.model.mm import vma as vmas
from userfault.model.mm.address_space import AddressSpace
from userfault.model.mm.vma import Vma
from userfault.uapi import mman

_VVAR = 0x7FFF_F7FC_0000
_VDSO = _VVAR + 4 * PAGE


def map_specials(mm: AddressSpace, ops: MemoryOps) -> None:
    """Map them where a process without address-space randomisation has them; `ops`: their type."""
    for name, start, pages, prot, may_write in (
        ("[vvar]", _VVAR, 4, mman.PROT_READ, 0),
        ("[vdso]", _VDSO, 2, mman.PROT_READ | mman.PROT_EXEC, vmas.MAY_WRITE),
    ):
        flags = vmas.SPECIAL | may_write
        vma = Vma(mm, start, start + pages * PAGE, prot, flags, ops, None, start)
        vma.name = name
        mm.insert(vma)
