"""Non-cooperative events: who raises them is asleep until they are read.

`changing` of the context counts from just before a change until the sender has run again after
its event was read.  As long as it is not zero, fills and protection fail with EAGAIN.
"""

from __future__ import annotations

from userfault.kernel.calls import WAITS_EVENT
from userfault.model.errors import Killed
from userfault.model.tasks.recorder import RECORD
from userfault.model.tasks.sched import Task, Wait
from userfault.model.uffd.context import Context, Event


def announce(context: Context) -> None:
    """A change is about to happen: fills fail from now on."""
    if RECORD.on:
        RECORD.adds.add(("changing", context.number))
    context.changing += 1


def send(task: Task, context: Context, event: Event) -> None:
    """Queue an announced event and sleep until it was read; no lock is held."""
    try:
        if RECORD.on:
            RECORD.reads.add(("context", context.number))
            RECORD.writes.add(("events", context.number))
        if context.released:
            return
        context.events.append(event)
        context.wake_readers()
        task.sched.block(
            Wait(
                WAITS_EVENT,
                lambda: f"its event {event.name} of {context.name} to be read",
                give_up=lambda: _drop(context, event),
            )
        )
        if task.sched.preemptive:
            task.sched.point("event.resume")
    except Killed:
        if event.child is not None and not event.read:
            event.child.release()
        raise
    finally:
        if RECORD.on:
            RECORD.adds.add(("changing", context.number))
        context.changing -= 1
    if event.child is not None and not event.read:
        # Nobody will ever hold a descriptor of the child's context.
        event.child.release()


def _drop(context: Context, event: Event) -> None:
    if RECORD.on:
        RECORD.writes.add(("events", context.number))
    if event in context.events:
        context.events.remove(event)


def wants(context: Context | None, feature: int) -> bool:
    """Whether the mapping's context asked for this kind of event."""
    return context is not None and context.has(feature)
