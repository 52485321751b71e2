"""A core that a watchdog looks at, whose actions a test performs by hand."""

from __future__ import annotations

from pager_core.simstate import PAGE
from userfault.pager.core.actions import Fetch, Fill, Overdue
from userfault.pager.core.core import MappingCore
from userfault.pager.core.plan import Plan
from userfault.pager.core.policy import Policy
from userfault.pager.core.states import Pages
from userfault.pager.core.windows import WindowPlanner

START = 1 << 20
DEADLINE_S = 5.0


def core_of(on_overdue: str = "report", **changes: object) -> MappingCore:
    """A core without a kernel: reads of the source may last, faults may wait 5 s."""
    policy = Policy(
        background=False,
        fill_around="order",
        window_bytes=PAGE,
        deadline_s=1000.0,
        fetches=1,
        fault_deadline_s=DEADLINE_S,
        on_overdue=on_overdue,
    )
    plan = Plan(START, PAGE, policy, **changes)  # type: ignore[arg-type]
    return MappingCore(plan, Pages(bytearray(8), 8))


def fault(core: MappingCore, page: int) -> None:
    core.fault(START + page * PAGE, 0)


def read_begun(core: MappingCore, now: float) -> Fetch:
    action = core.out.popleft()
    assert isinstance(action, Fetch)
    core.started(action, now)
    return action


def in_streams(core: MappingCore) -> None:
    """Faults came in order of late: the next one is filled with three more pages."""
    assert isinstance(core.planner, WindowPlanner)
    window = core.planner._window
    window.limit = window.start = 4
    window._went_on = 1.0


def told(core: MappingCore) -> Overdue:
    action = core.out.popleft()
    assert isinstance(action, Overdue)
    return action


def filled(core: MappingCore) -> Fill:
    action = core.out.popleft()
    assert isinstance(action, Fill)
    return action
