"""UFFDIO_COPY beside others: what changes while it waits for its source, and whom it wakes."""

from __future__ import annotations

from collections.abc import Callable
from errno import EAGAIN, EEXIST

from userfault.check.words.outcome import expect
from userfault.check.words.scenes import (
    EMPTY,
    copied,
    sleeping_copy,
)
from userfault.check.words.statement import ALL, statement
from userfault.check.words.thread import Thread
from userfault.check.words.trace import errno_name
from userfault.check.words.uffd import MINOR, MISSING, WP
from userfault.kernel import calls
from userfault.kernel.calls import (
    PAGE,
    Munmap,
    Read,
)
from userfault.kernel.memtypes import Memory
from userfault.uapi import userfaultfd as abi

_MAN = "ioctl_userfaultfd(2)"
_MEASURED = "measured on 6.1 to 7.3"


# --- What changes while the source is awaited ----------------------------------------------------


@statement(
    73,
    "When another file is mapped at the destination while COPY waits for its second source page,"
    " COPY goes on into the new file up to 6.18, and fails with EAGAIN since 7.2.",
    since="6.1",
    source="measured on 6.1 to 6.18, 7.2 and 7.3",
    memories=("shmem",),
    outcomes={"up to 6.18": "success, a page in each file", "since 7.2": "EAGAIN after one page"},
)
def another_file_at_the_destination(t: Thread, memory: Memory) -> None:
    u, area = t.registered(memory, MISSING, pages=2)
    asleep = sleeping_copy(t, u, area.address, area.length, hole=1)
    t.ok(Munmap(area.address, area.length))
    new = t.map(memory, pages=2, at=area.address)
    u.register(new.address, new.length, MISSING)
    ended = asleep.resolve()
    expect(t.blocks_of(area.fd), PAGE // 512, "blocks of the old file")
    if t.since("7.2"):
        expect((errno_name(ended.errno), copied(ended)), ("EAGAIN", PAGE), "the end of COPY")
        expect(t.blocks_of(new.fd), 0, "blocks of the new file")
        return
    expect((errno_name(ended.errno), copied(ended)), (errno_name(0), 2 * PAGE), "the end of COPY")
    expect(t.blocks_of(new.fd), PAGE // 512, "blocks of the new file")
    expect(t.page(new.at(0)), EMPTY, "the first page of the new mapping")
    expect(t.read(new.at(1)), b"h", "the second page of the new mapping")


@statement(
    74,
    "When the destination is unmapped while COPY waits for its second source page, COPY fails with"
    " EAGAIN, and `copy` is one page.",
    since="6.1",
    source=_MEASURED,
    memories=ALL,
)
def the_destination_goes(t: Thread, memory: Memory) -> None:
    u, area = t.registered(memory, MISSING, pages=2)
    asleep = sleeping_copy(t, u, area.address, area.length, hole=area.page // PAGE)
    t.ok(Munmap(area.address, area.length))
    ended = asleep.resolve()
    expect((errno_name(ended.errno), copied(ended)), ("EAGAIN", area.page), "the end of COPY")


@statement(
    156,
    "A handled signal does not end a COPY that waits for its source: it goes on when the page is"
    " there.",
    since="4.3",
    source="measured on 6.18, where the call spins between the signal and the page",
)
def a_signal_does_not_end_a_copy(t: Thread) -> None:
    u, area = t.registered("anon", MISSING, pages=2)
    asleep = sleeping_copy(t, u, area.address, area.length, hole=1)
    page = t.source(b"h")
    answer = asleep.source.copy_call(asleep.hole, page, PAGE)
    t.in_one_go(calls.Signal(asleep.copier.thread_id), answer)
    ended = asleep.copy.ok()
    expect(copied(ended), area.length, "`copy`")
    expect((t.read(area.at(0)), t.read(area.at(1))), (b"s", b"h"), "the pages")
    asleep.source.silent("the end of the COPY")


@statement(
    157,
    "A page that appears at the destination while COPY waits for its source stays there: COPY fails"
    " with EEXIST, and after the first page with EAGAIN.",
    since="6.1",
    source=_MEASURED,
    memories=ALL,
)
def a_page_that_appears_meanwhile_stays(t: Thread, memory: Memory) -> None:
    u, area = t.registered(memory, MISSING, pages=3)
    first = sleeping_copy(t, u, area.at(0), area.page)
    second = sleeping_copy(t, u, area.at(1), 2 * area.page, hole=area.page // PAGE)
    winner = t.source(b"winner", area.page)
    for number in (0, 2):
        u.copy(area.at(number), winner, area.page)
    ended = first.resolve()
    seen = (errno_name(ended.errno), copied(ended))
    expect(seen, ("EEXIST", -EEXIST), "the end of the first COPY")
    ended = second.resolve()
    expect((errno_name(ended.errno), copied(ended)), ("EAGAIN", area.page), "and of the second")
    expect([t.read(area.at(number)) for number in range(3)], [b"w", b"s", b"w"], "the pages")


@statement(
    159,
    "When the destination is registered with other modes while COPY waits for its source, COPY is"
    " completed up to 6.18 and fails with EAGAIN since 7.2; when another descriptor takes it over,"
    " COPY is completed.",
    since="6.1",
    source="measured on 6.1 to 6.18, 7.2 and 7.3",
    outcomes={"up to 6.18": "other modes: success", "since 7.2": "other modes: EAGAIN"},
)
def the_registration_changes_meanwhile(t: Thread) -> None:
    u, other = t.uffd(), t.uffd()
    area = t.map("anon", pages=2)
    u.register(area.address, area.length, MISSING)
    modes = sleeping_copy(t, u, area.at(0), PAGE)
    u.register(area.at(0), PAGE, MISSING | WP)
    owner = sleeping_copy(t, u, area.at(1), PAGE)
    u.unregister(area.at(1), PAGE)
    other.register(area.at(1), PAGE, MISSING)
    promised = "EAGAIN" if t.since("7.2") else errno_name(0)
    expect(errno_name(modes.resolve().errno), promised, "the end with other modes")
    expect(errno_name(owner.resolve().errno), errno_name(0), "the end with another descriptor")
    expect(t.read(area.at(1)), b"h", "the page")


# --- Waking --------------------------------------------------------------------------------------


@statement(
    154,
    "COPY, ZEROPAGE, CONTINUE, POISON and MOVE with DONTWAKE wake nobody; UFFDIO_WAKE then does.",
    since="6.8",
    source=f"{_MAN}; measured on 6.18",
)
def a_fill_need_not_wake(t: Thread) -> None:
    u = t.uffd()
    anon = t.map("anon", pages=4)
    file = t.map("shmem")
    t.write(t.alias(file).address, b"cached")
    u.register(anon.address, anon.length, MISSING)
    u.register(file.address, file.length, MINOR)
    source = t.source()
    fills: list[tuple[int, Callable[[], None]]] = [
        (anon.at(0), lambda: u.copy(anon.at(0), source, PAGE, abi.UFFDIO_COPY_MODE_DONTWAKE)),
        (anon.at(1), lambda: u.zeropage(anon.at(1), PAGE, abi.UFFDIO_ZEROPAGE_MODE_DONTWAKE)),
        (anon.at(2), lambda: u.poison(anon.at(2), PAGE, abi.UFFDIO_POISON_MODE_DONTWAKE)),
        (anon.at(3), lambda: u.move(anon.at(3), source, PAGE, abi.UFFDIO_MOVE_MODE_DONTWAKE)),
        (file.at(0), lambda: u.continue_(file.at(0), PAGE, abi.UFFDIO_CONTINUE_MODE_DONTWAKE)),
    ]
    for address, fill in fills:
        reader = t.thread().blocks(Read(address, 1))
        fill()
        reader.still("a fill with DONTWAKE")
        u.wake(address, PAGE)
        poisoned = reader.finish().signal
        expect(poisoned is not None, address == anon.at(2), "the reader got SIGBUS")


@statement(
    155,
    "A COPY that stops on its way wakes those who wait for the pages that it has filled, and nobody"
    " else.",
    since="4.3",
    source=_MEASURED,
    memories=ALL,
)
def progress_wakes_only_its_own(t: Thread, memory: Memory) -> None:
    u = t.uffd()
    area = t.map(memory, pages=4)
    t.write(area.at(2), b"there")
    u.register(area.address, area.length, MISSING)
    readers = [t.thread().blocks(Read(area.at(number), 1)) for number in (0, 1, 3)]
    source = t.source(b"s", area.length)
    u.copy(area.address, source, area.length, fails=EAGAIN, field=2 * area.page)
    readers[0].read(b"s")
    readers[1].read(b"s")
    readers[2].still("a COPY that did not come so far")
    u.copy(area.at(3), source, area.page)
    readers[2].read(b"s")


# --- Who makes the call --------------------------------------------------------------------------


@statement(
    158,
    "A child of fork(2) that fills through the inherited descriptor fills the parent's memory, with"
    " bytes of its own.",
    since="4.3",
    source=_MEASURED,
    memories=ALL,
)
def a_child_fills_the_parents_memory(t: Thread, memory: Memory) -> None:
    u = t.uffd()
    source = t.source(b"p", memory.page_size)
    area = t.map(memory)
    u.register(area.address, area.length, MISSING)
    reader = t.thread().blocks(Read(area.address, 1))
    child = t.fork()
    child.write(source, b"c" * memory.page_size)
    u.by(child).copy(area.address, source, area.page)
    reader.read(b"c")
    expect(t.read(source), b"p", "the parent's source")
    if not memory.shared:
        expect(child.page(area.address), EMPTY, "the child's entry")
