"""What a scenario says must have come of its tasks."""

from __future__ import annotations

from collections.abc import Callable

from userfault.check.explore.building.caller import Caller
from userfault.check.explore.building.world import World
from userfault.model.uffd.context import Context

WAITS = "waits (fault)"  # whose message can still be read, or whose page is not there


def only(world: World, caller: Caller, *legal: object) -> None:
    """A task must end with one of these; WAITS: or sleep where it is still to be served."""
    if WAITS in legal:
        caller.may_wait = True

    def check() -> str | None:
        value = caller.value if caller.ended else caller.result
        if value not in legal:
            told = ", ".join(map(str, legal))
            return f"{caller.name}: {caller.result}, and only {told} would be right"
        return left_asleep(caller)

    world.check(check)


def left_asleep(caller: Caller) -> str | None:
    """Whether it sleeps in a fault that is none any more: it would wait for ever.

    As long as its message was not read somebody will: whatever has become of its page by then.
    """
    if caller.ended:
        return None
    for context in caller.task.process.mm.contexts:
        assert isinstance(context, Context)
        for waiter in context.delivered:
            if waiter.task is caller.task and not context.must_wait(waiter):
                return (
                    f"{caller.name} was told of, and left asleep where there is nothing to wait for"
                )
    return None


def both(world: World, told: str, holds: Callable[[], object]) -> None:
    """What must hold of several results at once."""
    world.check(lambda: None if holds() else told)
