"""A core whose actions a test performs by hand, and a world whose pages it touches."""

from __future__ import annotations

from pager_core.simstate import PAGE, Config
from pager_core.simworld import World
from userfault.pager.core.actions import Fill
from userfault.pager.core.core import MappingCore
from userfault.pager.core.plan import Plan
from userfault.pager.core.policy import Policy
from userfault.pager.core.states import Pages

START = 1 << 20
LAZY = Config(background=False, window=1)


def core_of(count: int = 8, **changes: object) -> MappingCore:
    """A core without a kernel, whose actions the test performs."""
    policy = Policy(background=False, retries=1, window_bytes=PAGE, fault_deadline_s=None)
    plan = Plan(START, PAGE, policy, **changes)  # type: ignore[arg-type]
    return MappingCore(plan, Pages(bytearray(count), count))


def fault(core: MappingCore, page: int, flags: int = 0) -> None:
    core.fault(START + page * PAGE, flags)


def fill_of(core: MappingCore) -> Fill:
    action = core.out.popleft()
    assert isinstance(action, Fill)
    return action


def touch(world: World, page: int, thread: int = 0, *, process: int = 0) -> None:
    mm = world.kernel.mms[process]
    world.kernel.touch(mm.threads[thread], world.kernel.start + page)


def seen(world: World, thread: int = 0, *, process: int = 0) -> str:
    held = world.kernel.mms[process].threads[thread]
    assert held.state == "idle"
    return held.last


def steps(world: World, count: int) -> None:
    for _ in range(count):
        world.step()
