"""Who is registered, who waits, and that nobody waits for ever or in vain."""

from __future__ import annotations

from userfault.model.invariants.rule import Seen, broken
from userfault.model.mm import vma as vmas
from userfault.model.mm.vma import Vma
from userfault.model.uffd.context import INITIALIZED, Context
from userfault.uapi import userfaultfd as abi


def registrations(seen: Seen) -> None:
    """A registered mapping is of a type that serves its modes, and may be written."""
    for _, context, vma in seen.did("registered"):
        told = _cannot(context, vma)
        if told:
            broken(f"[{vma.start:#x}, {vma.end:#x}) of {vma.kind} is registered and {told}")


def _cannot(context: Context, vma: Vma) -> str:
    keeps = not vma.flags & vmas.DROPPABLE or context.mm.profile.droppable_registers
    tracked = vma.modes == vmas.WP and context.features & abi.UFFD_FEATURE_WP_ASYNC
    minor = vma.modes & vmas.MINOR and not vma.ops.can_continue
    reasons = (
        (vma.flags & vmas.SPECIAL, "is special memory"),
        (not keeps, "may lose its pages at any time"),
        (not vma.flags & vmas.MAY_WRITE, "must never be written"),
        (vma.ops.uffd.can_userfault is None and not tracked, "has no table"),
        (minor and not tracked, "has no pages to continue with"),
    )
    return next((told for applies, told in reasons if applies), "")


def mappings(seen: Seen) -> None:
    """Mappings do not overlap; they are registered with an open descriptor of their own process."""
    for mm in seen.remapped:
        end = 0
        for start, vma in mm.vmas.items():
            where = f"[{vma.start:#x}, {vma.end:#x})"
            if start != vma.start or vma.start >= vma.end or vma.mm is not mm or start < end:
                broken(f"{where} is filed wrongly or overlaps")
            end = vma.end
            if (vma.context is None) is not (not vma.modes):
                broken(f"{where} has modes {vma.modes} and the descriptor {vma.context}")
            if vma.context is not None and vma.context not in mm.contexts:
                broken(f"{where} is registered with a closed descriptor, or another process's")
            if vma.object is not None and vma not in vma.object.mappings:
                broken(f"{where} is not known to its file")


def owner_alone(seen: Seen) -> None:
    """A registration is taken away by its own descriptor."""
    for _, context, owner in seen.did("unregistered"):
        if context is not owner and not context.mm.profile.foreign_unregister:
            broken(f"{context.name} unregistered a range of {owner.name}")


def features_once(seen: Seen) -> None:
    """The handshake of a descriptor succeeds once."""
    for _, context, before in seen.did("features"):
        if before & INITIALIZED:
            broken(f"{context.name} had features {before:#x} and got {context.features:#x}")


def waiters(seen: Seen) -> None:
    """Nobody sleeps on a page that is there, on two queues, or where a wake-up has passed."""
    for _, waiter in seen.did("sleeps"):
        if not waiter.context.must_wait(waiter):
            broken(f"{waiter.task.name} sleeps at {waiter.address:#x}, where the page is")
    for _, context, start, length in seen.did("woken"):
        for waiter in (*context.pending, *context.delivered):
            if waiter.asleep and start <= waiter.address < start + length:
                broken(f"{waiter.task.name} was not woken at {waiter.address:#x}")
    for _, context in seen.did("closed"):
        if context.pending or context.delivered:
            broken(f"{context.name} is closed, and somebody waits for it")
    for context in seen.contexts:
        queued = [*context.pending, *context.delivered]
        if len({waiter.task for waiter in queued}) != len(queued):
            broken(f"a task is queued twice by {context.name}")
        for waiter in queued:
            if waiter.asleep and waiter.task.waits is None:
                broken(f"{waiter.task.name} is queued by {context.name} and has gone on")


def end_of_file(seen: Seen) -> None:
    """A touch beyond the end of the file is SIGBUS, never a userfault.

    The file may be cut after that was decided, and before the message is queued.
    """
    for _, page, vma in seen.did("decided"):
        target = vma.object
        if target is None or target.cut or target.size > vma.index(page) << target.shift:
            continue
        if not (target.kind.pool and vma.index(page) in target.cache):
            broken(f"a message about {page:#x}, beyond the end of {target.name}")


def served(seen: Seen) -> None:
    """A touch that a descriptor is to serve is not refused."""
    for _, context, address in seen.did("refused"):
        broken(f"a touch of {address:#x} got SIGBUS, though {context.name} would serve it")
