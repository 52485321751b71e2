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
    """A change is about to happen: fills fail from now on; those that have begun are waited for."""
    bugs = context.mm.config.bugs
    waits = context.mm.vma_locks and "events-do-not-wait" not in bugs
    if waits:
        context.map_changing.write_at_once()
    if RECORD.on:
        RECORD.adds.add(("changing", context.number))
    context.changing = 1 if "changing-is-a-flag" in bugs else context.changing + 1
    if waits:
        context.map_changing.write_done()


def send(task: Task, context: Context, event: Event) -> None:
    """Queue an announced event and sleep until it was read; no lock is held."""
    try:
        if task.sched.preemptive:
            task.sched.point("event.queue")
        if RECORD.on:
            RECORD.reads.add(("context", context.number))
            RECORD.writes.add(("events", context.number))
        if not context.released:
            _wait(task, context, event)
    except Killed:
        if event.child is not None and not event.read:
            event.child.release()
        raise
    finally:
        if RECORD.on:
            RECORD.adds.add(("changing", context.number))
            if event.child is not None:  # whether it was read decides what becomes of it
                RECORD.reads.add(("context", event.child.number))
        flag = "changing-is-a-flag" in context.mm.config.bugs
        context.changing = 0 if flag else context.changing - 1
    if event.child is not None and not event.read:
        # Nobody will ever hold a descriptor of the child's context.
        if "child-keeps-context" in context.mm.config.bugs:
            event.child.forget_mappings()
            return
        event.child.release()


def _wait(task: Task, context: Context, event: Event) -> None:
    context.events.append(event)
    context.wake_readers()
    task.sched.block(
        Wait(
            WAITS_EVENT,
            lambda: f"its event {event.name} of {context.name} to be read",
            give_up=lambda: _drop(context, event),
        )
    )


def _drop(context: Context, event: Event) -> None:
    if RECORD.on:
        RECORD.writes.add(("events", context.number))
    if event in context.events:
        context.events.remove(event)


def wants(context: Context | None, feature: int) -> bool:
    """Whether the mapping's context asked for this kind of event."""
    return context is not None and context.has(feature)
