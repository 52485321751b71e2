"""Which planner a mapping gets: the one place that picks it, for every driver."""

from __future__ import annotations

from userfault.pager.core.blocks import BlockPlanner
from userfault.pager.core.bycost import CostPlanner
from userfault.pager.core.planner import Books, Planner
from userfault.pager.core.windows import WindowPlanner


def planner_for(books: Books) -> Planner:
    """The planner of the mapping with these books, by its plan and policy."""
    around = books.plan.policy.fill_around
    if around == "order":
        return WindowPlanner(books)
    if around == "cost":
        return CostPlanner(books)
    return BlockPlanner(books, books.plan.window_pages if around == "block" else 1)
