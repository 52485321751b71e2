"""Fills of memory over a shared copy: from the copy where it has the pages, else by way of it.

A fill is cut to pages that are alike, in the copy or not, and the rest of it comes next.
"""

from __future__ import annotations

from collections.abc import Sequence

from userfault.pager.core.actions import Fill
from userfault.pager.drivers.mappings.served import Context
from userfault.pager.drivers.shared.copy import SharedCopy


def in_copy(context: Context, fill: Fill, copy: SharedCopy) -> bool:
    """Whether the first page is in the copy; `fill` is cut to those of which the same is true."""
    run = copy.run(fill.page, fill.count)
    _cut(context, fill, abs(run))
    return run > 0


def publish(context: Context, fill: Fill, copy: SharedCopy, source: int) -> bool:
    """Put pages into the copy, from the bytes at `source`, and cut `fill` to those that are there.

    False: what is left of it cannot be shared, and is to be copied to this memory alone.
    """
    count, shared = copy.publish(fill.page, fill.count, source)
    if shared:
        context.core.counters.published += count
    _cut(context, fill, count)
    return shared


def all_in_copy(
    context: Context, runs: Sequence[tuple[int, int]], copy: SharedCopy, sources: Sequence[int]
) -> list[int]:
    """Put runs into the copy that are not there, from where their bytes lie.

    Zeros (nothing is to be copied) for as many runs, from the first, as are there in whole.
    """
    there: list[int] = []
    for (page, count), source in zip(runs, sources, strict=False):
        if copy.run(page, count) != count:
            done, shared = copy.publish(page, count, source)
            if shared:
                context.core.counters.published += done
            if not shared or done < count:
                break
        there.append(0)
    return there


def _cut(context: Context, fill: Fill, count: int) -> None:
    if count < fill.count:
        core = context.core
        core.out.appendleft(fill.rest(count, core.plan.shift))
        fill.count = count
