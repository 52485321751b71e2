"""Events of fork(2), and the descriptors that they bring."""

from __future__ import annotations

from errno import EAGAIN, EINVAL, ENOMEM, ESRCH

from userfault.check.words.flags import WP_WRITE
from userfault.check.words.outcome import Failed, expect
from userfault.check.words.scenes import field_of_an_event, marking
from userfault.check.words.statement import ALL, statement
from userfault.check.words.thread import Thread
from userfault.check.words.uffd import MISSING, UNTOUCHED, WP, Message, Uffd
from userfault.kernel import calls
from userfault.kernel.calls import (
    WAITS_EVENT,
    Read,
    Write,
)
from userfault.kernel.events import Fork
from userfault.kernel.memtypes import Memory
from userfault.kernel.modes import Feature

_MAN = "userfaultfd(2)"
_GUIDE = "the kernel's admin guide on userfaultfd"
_MEASURED = "measured on 6.1 to 7.3"


# --- One context ---------------------------------------------------------------------------------


@statement(
    137,
    "With EVENT_FORK, fork(2) sleeps until the event was read; it brings a descriptor that needs no"
    " handshake, the child's faults arrive there, and the child keeps protection.",
    since="6.4",
    source=f"{_MAN}; {_MEASURED}",
    memories=ALL,
)
def a_fork_brings_a_descriptor(t: Thread, memory: Memory) -> None:
    u = t.uffd(Feature.EVENT_FORK | marking(memory))
    area = t.map(memory, pages=3)
    if area.page > calls.PAGE:
        t.reserve(area.page, 3)
    u.register(area.address, area.length, MISSING | WP)
    source = t.source(b"s", area.page)
    u.copy(area.at(0), source, area.page)
    u.writeprotect(area.at(0), 2 * area.page)
    child, w = _forked(t, u)
    found = [child.protected(area.at(page)) for page in range(3)]
    expect(found, [True, True, False], "the pages of the child are protected")
    expect(child.vma(area.address).flags.count("um"), 1, "the child is registered")
    t.fails(w.api(), EINVAL)
    reader = child.thread().blocks(Read(area.at(2), 1))
    u.silent("a fault of the child")
    w.fault(area.at(2), 0)
    w.copy(area.at(2), source, area.page)
    reader.read(b"s")
    child.thread().blocks(Write(area.at(0), b"w"))
    w.fault(area.at(0), WP_WRITE)


def _forked(t: Thread, u: Uffd) -> tuple[Thread, Uffd]:
    """A child of the process, and the descriptor for it that its event brought."""
    parent = t.thread().blocks(calls.Fork(), WAITS_EVENT)
    event = u.message()
    descriptor = _fork(event)
    return t.child(parent.ok().value), Uffd(t, descriptor)


def _fork(event: Message) -> int:
    if not isinstance(event, Fork):
        raise Failed(f"promised a fork, saw {event}")
    return event.userfaultfd


@statement(
    138,
    "Without EVENT_FORK a child has neither registration nor protection; its parent keeps both.",
    since="6.4",
    source=f"{_GUIDE}; {_MEASURED}",
    memories=ALL,
)
def a_child_is_not_registered(t: Thread, memory: Memory) -> None:
    u = t.uffd(marking(memory))
    area = t.map(memory, pages=3)
    if area.page > calls.PAGE:
        t.reserve(area.page, 3)
    u.register(area.address, area.length, MISSING | WP)
    u.copy(area.at(0), t.source(b"s", area.page), area.page)
    u.writeprotect(area.at(0), 2 * area.page)
    child = t.fork()
    expect(child.registration(area.address), "", "the registration of the child")
    expect(t.registration(area.address), "um uw", "the registration of the parent")
    found = [child.protected(area.at(page)) for page in range(3)]
    expect(found, [False, False, False], "the pages of the child are protected")
    found = [t.protected(area.at(page)) for page in range(3)]
    expect(found, [True, True, False], "the pages of the parent are protected")
    child.write(area.at(0), b"child")
    expect(child.read(area.at(2), 8), bytes(8), "the page that was missing")
    u.silent("the touches of the child")
    t.thread().blocks(Write(area.at(0), b"w"))
    u.fault(area.at(0), WP_WRITE)


@statement(
    178,
    "A fork(2) that waits for its event is not released by a close(2) in the process that forks:"
    " the child has the descriptor, too.",
    since="4.11",
    source=_MEASURED,
)
def closing_does_not_release_a_fork(t: Thread) -> None:
    u, area = t.registered("anon", MISSING, Feature.EVENT_FORK)
    parent = t.thread().blocks(calls.Fork(), WAITS_EVENT)
    u.close()
    parent.still("the close")
    expect(t.registration(area.address), "um", "the registration")


@statement(
    179,
    "The descriptor that a fork brought outlives the child: fills then fail with ESRCH.",
    since="4.11",
    source=_MEASURED,
    memories=ALL,
)
def the_descriptor_of_a_fork_outlives_the_child(t: Thread, memory: Memory) -> None:
    u, area = t.registered(memory, MISSING, Feature.EVENT_FORK)
    child, w = _forked(t, u)
    child.do(calls.Exit())
    source = t.source(b"s", area.page)
    w.copy(area.address, source, area.page, fails=ESRCH, field=UNTOUCHED)
    w.register(area.address, area.page, MISSING, fails=ENOMEM)
    w.wake(area.address, area.page)
    u.copy(area.address, source, area.page)  # the parent's is not touched
    expect(t.read(area.address), b"s", "the page of the parent")


# --- Several contexts ----------------------------------------------------------------------------


@statement(
    173,
    "A fork(2) raises one event for each context with EVENT_FORK, one after the other in the order"
    " of their ranges; fills of all of them fail with EAGAIN from the start.",
    since="4.11",
    source="measured on 6.18",
    memories=ALL,
)
def each_context_hears_of_a_fork(t: Thread, memory: Memory) -> None:
    late, early = t.uffd(Feature.EVENT_FORK), t.uffd(Feature.EVENT_FORK)
    area = t.map(memory, pages=2)
    early.register(area.at(0), area.page, MISSING)
    late.register(area.at(1), area.page, MISSING)
    source = t.source(b"s", area.page)
    parent = t.thread().blocks(calls.Fork(), WAITS_EVENT)
    late.silent("the first event waits")
    late.copy(area.at(1), source, area.page, fails=EAGAIN, field=field_of_an_event(t))
    served = [Uffd(t, _fork(early.message()))]
    parent.still("the first of two events was read")
    early.silent("the second event waits")
    served += [Uffd(t, _fork(late.message()))]
    child = t.child(parent.ok().value)
    for page, w in enumerate(served):
        child.thread().blocks(Read(area.at(page), 1))
        w.fault(area.at(page), 0)


# --- A process that is gone ----------------------------------------------------------------------


@statement(
    141,
    "On the descriptor of a process that has ended, fills fail with ESRCH, REGISTER and UNREGISTER"
    " with ENOMEM; WAKE works, and there is nothing to read.",
    since="6.1",
    source=_MEASURED,
    memories=ALL,
)
def a_descriptor_outlives_its_process(t: Thread, memory: Memory) -> None:
    u, area = t.registered(memory, MISSING | WP)
    t.thread().blocks(Read(area.address, 1))  # nobody reads its message
    child = t.fork()
    t.do(calls.Exit())
    w = u.by(child)
    source = child.source(b"s", area.page)
    w.copy(area.address, source, area.page, fails=ESRCH, field=UNTOUCHED)
    w.zeropage(area.address, area.page, fails=ESRCH, field=UNTOUCHED)
    w.continue_(area.address, area.page, fails=ESRCH, field=UNTOUCHED)
    if t.since("6.6"):
        w.poison(area.address, area.page, fails=ESRCH, field=UNTOUCHED)
    w.writeprotect(area.address, area.page, fails=ESRCH)
    w.register(area.address, area.page, MISSING, fails=ENOMEM)
    w.unregister(area.address, area.page, fails=ENOMEM)
    w.wake(area.address, area.page)
    w.silent("the process ended")
    expect(w.revents(), 0, "poll")
