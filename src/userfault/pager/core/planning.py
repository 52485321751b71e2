"""Which planner a mapping gets: the one place that picks it, for every driver."""

from __future__ import annotations

from userfault.pager.core.blocks import BlockPlanner
from userfault.pager.core.bounded import Bounded
from userfault.pager.core.bycost import CostPlanner
from userfault.pager.core.planner import Books, Planner
from userfault.pager.core.recording import Recording
from userfault.pager.core.replay import Replay
from userfault.pager.core.windows import WindowPlanner


def planner_for(books: Books) -> Planner:
    """The planner of the mapping with these books, by its plan and policy."""
    inner = _alone(books)
    if books.plan.touches is not None:
        return Recording(inner, books, books.plan.touches)
    if books.plan.course is not None:
        return Replay(inner, books, books.plan.course)
    return inner


def _alone(books: Books) -> Planner:
    """By the policy, without what was recorded of other runs."""
    around = books.plan.policy.fill_around
    if around == "order":
        return WindowPlanner(books)
    if around == "cost" and books.plan.window_pages == 1 and not books.plan.evicts:
        return BlockPlanner(books, 1)  # nothing to be weighed
    if around == "cost":
        cost = CostPlanner(books)
        return Bounded(cost, CostPlanner(books, blocks=False), books) if books.plan.evicts else cost
    return BlockPlanner(books, books.plan.window_pages if around == "block" else 1)
