"""The model's own: upstream's five hooks, hugetlb behind them too, and every call is checked.

What a hook returned, and what it left behind, is looked at around each call (`memtypes.boundary`).
"""

from __future__ import annotations

from userfault.model.designs.design import Design
from userfault.model.memtypes.ops import MemoryOps, UffdOps


def _calls(ops: MemoryOps) -> MemoryOps:
    return ops


OURS = Design(
    name="ours",
    sentence="upstream's five hooks for every type, hugetlb too; each call of one is checked",
    source="userfault.model.memtypes.ops",
    calls=_calls,
    table=UffdOps,
    exports=("filemap_remove_folio()",),
)
