"""What becomes of a marker where the pages of a range are removed.

Source: zap_nonpresent_ptes() of mm/memory.c; measured on 6.18.
"""

from __future__ import annotations

from userfault.model.mm import pgtable as pt


def left(flags: int, *, wp: bool, armed: bool, drop: bool, private_too: bool) -> int:
    """Which marks stay; 0: none.

    `wp`: the mapping keeps protection as a marker (one of a file does); `armed`: WP is registered;
    `drop`: the file is cut, and markers go; `private_too`: so do the copies of private writes.
    PAGEMAP_SCAN protects poison and guards, too: their bit stays with them, and of poison that goes
    where WP is registered.  A marker of its own stays anywhere.
    """
    if not drop and flags & pt.MARK_GUARD:
        return flags
    if not drop and not private_too and flags & pt.MARK_POISON:
        return flags
    if wp and (armed or flags == pt.MARK_WP):
        return flags & pt.MARK_WP
    return 0
