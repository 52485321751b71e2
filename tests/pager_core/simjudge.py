"""The judgement of what becomes of a world: `check` after every step, `finale` at the end."""

from __future__ import annotations

from pager_core.simparts import Violation
from pager_core.simstate import Context
from pager_core.simworld import World
from userfault.pager.core.states import FILLING, NAMES, UNSETTLED

CALM = 20_000  # steps within which everything must have come to rest


def check(world: World) -> None:
    """What holds after every step."""
    for context in world.contexts:
        pages = context.core.pages
        held = bytes(pages.states[0 : pages.count])
        if any(state >= len(NAMES) for state in held):
            raise Violation(f"no such state: {held!r}")
        unsettled = sum(held.count(bytes([state])) for state in UNSETTLED)
        if unsettled != pages.unsettled:
            raise Violation(f"{unsettled} pages are unsettled, {pages.unsettled} are counted")
        if context.finishes > 1:
            raise Violation(f"{context.mm.name} was finished {context.finishes} times")


def calm(world: World) -> None:
    """Let everything that is under way come to its end."""
    for _ in range(CALM):
        if world.state.over or not _progress(world):
            break
        check(world)
    else:
        raise Violation("it never comes to rest")


def _progress(world: World) -> bool:
    kernel = world.kernel
    for mm in kernel.mms:
        for call in mm.calls:
            if call.stage != "asleep":
                kernel.calls.resume(call)
                return True
        for thread in mm.threads:
            if thread.state == "woken":
                kernel.run(thread)
                return True
    if world.step() or world.answer(0):
        return True
    times = [c.core.next_time() for c in world.contexts if not c.closed]
    waits = [when for when in times if when is not None]
    if waits:
        world.state.now = max(world.state.now, min(waits))
    return world.tick()


def finale(world: World) -> None:
    """Everything comes to rest; nobody waits; every page shows what it must."""
    world.kernel.uffd.poor = 0
    world.reap()
    calm(world)
    _nobody_waits(world)
    _everything_in(world)
    for mm in [mm for mm in world.kernel.mms if mm.alive]:
        for vpn in sorted(mm.slots):
            if world.state.over:
                return
            world.kernel.touch(mm.threads[0], vpn)
            calm(world)
            _nobody_waits(world)
    for context in world.contexts:
        _finished_rightly(world, context)


def _nobody_waits(world: World) -> None:
    if world.state.over:
        return
    for mm in world.kernel.mms:
        for thread in mm.threads:
            if thread.state != "idle":
                raise Violation(f"{thread.name} is {thread.state} at {thread.vpn:#x} for ever")
        for call in mm.calls:
            raise Violation(f"{call.name} of {mm.name} sleeps for ever")


def _everything_in(world: World) -> None:
    """What was asked for comes without a touch."""
    wanted, main = world.state.completed and not world.state.over, world.state.main
    if wanted and main and main.mm.alive and main.core.pages.unsettled:
        held = main.core.pages.counts()
        raise Violation(f"everything was asked for, but there is {held}")


def _finished_rightly(world: World, context: Context) -> None:
    if world.state.over or not context.mm.alive:
        return
    core = context.core
    held = core.pages.counts()
    if core.planner.background and core.pages.unsettled:
        raise Violation(f"everything was to be filled, but there is {held}")
    if core.pages.states.find(bytes([FILLING]), 0, core.pages.count) >= 0:
        raise Violation(f"nothing is under way, but there is {held}")
    finishes = context.finishes or int(context.mm in world.state.excused)
    if (core.pages.unsettled == 0) != (finishes == 1):
        raise Violation(f"{held}, and finished {finishes} times")
