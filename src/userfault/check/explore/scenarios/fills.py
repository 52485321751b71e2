"""Faulting tasks, and who fills their pages."""

from __future__ import annotations

from userfault.check.explore.building.caller import Caller
from userfault.check.explore.building.scenario import scenario
from userfault.check.explore.building.world import World
from userfault.check.explore.scenarios.expecting import WAITS, both, only
from userfault.check.explore.scenarios.kinds import (
    ALL,
    ANON,
    HUGETLB,
    SHMEM,
    SMALL,
    mapped,
    of_each,
)
from userfault.uapi import mman


@scenario(group="fills")
def two_readers_one_copy(world: World) -> None:
    """Two threads read a missing page of anonymous memory while it is copied in."""
    area = world.map("anon")
    uffd = world.uffd(area)
    world.task("reader a", lambda me: me.read(area[0]))
    world.task("reader b", lambda me: me.read(area[0]))
    world.task("handler", lambda me: me.copy(uffd, area[0], b"new"))
    world.final("memory", lambda: world.peek(area[0]))


@scenario(group="fills")
def reader_copy_dontneed(world: World) -> None:
    """A thread reads a missing page while it is copied in and a third thread drops it."""
    area = world.map("anon")
    uffd = world.uffd(area)
    reader = world.task("reader", lambda me: me.read(area[0]), may_wait=True)
    world.task("handler", lambda me: me.copy(uffd, area[0], b"new"))
    world.task("dropper", lambda me: me.madvise(area[0], area.length, mman.MADV_DONTNEED))
    world.final("memory", lambda: world.peek(area[0]))
    only(world, reader, b"n", WAITS)


@of_each(*ALL, group="fills")
def two_copies_of_one_page(world: World, kind: str) -> None:
    """A page is copied in twice at once: one copy gets EEXIST, a reader the other's bytes."""
    area = mapped(world, kind)
    uffd = world.uffd(area)
    reader = world.task("reader", lambda me: me.read(area[0], 3))
    one = world.task("handler a", lambda me: me.copy(uffd, area[0], b"one", area.step))
    two = world.task("handler b", lambda me: me.copy(uffd, area[0], b"two", area.step))

    def holds() -> object:
        winner = {("EEXIST", area.step): b"two", (area.step, "EEXIST"): b"one"}
        return reader.value == winner.get((one.value, two.value))

    both(world, "the reader must see what the one successful copy brought", holds)


@of_each(*SMALL, group="fills")
def copy_and_zeropage(world: World, kind: str) -> None:
    """A page is copied in and filled with zeros at once: one of the two wins and is read."""
    area = mapped(world, kind)
    uffd = world.uffd(area)
    reader = world.task("reader", lambda me: me.read(area[0]))
    copier = world.task("copier", lambda me: me.copy(uffd, area[0], b"new"))
    zeroer = world.task("zeroer", lambda me: me.zeropage(uffd, area[0]))

    def holds() -> object:
        winner = {(area.step, "EEXIST"): b"n", ("EEXIST", area.step): b"\0"}
        return reader.value == winner.get((copier.value, zeroer.value))

    both(world, "the reader must see what the one successful fill brought", holds)


@of_each(ANON, SHMEM, group="fills")
def zeropage_and_two_touches(world: World, kind: str) -> None:
    """A thread reads and another writes a page that is filled with zeros: the write stays.

    Of anonymous memory the write is a copy, whose entry is empty for a moment: a reader that has
    queued its message sleeps then, until somebody reads that (see docs/findings.md).
    """
    area = mapped(world, kind)
    uffd = world.uffd(area)
    reader = world.task("reader", lambda me: me.read(area[0]))
    world.task("writer", lambda me: me.write(area[0], b"w"))
    world.task("handler", lambda me: me.zeropage(uffd, area[0]))
    only(world, reader, b"\0", b"w", *([WAITS] if kind == ANON else []))
    both(world, "the write was lost", lambda: world.peek(area[0]) == b"w")


@of_each(
    ANON, SHMEM, HUGETLB, group="fills", kernels=("6.12", "6.17", "6.18", "7.2", "7.3", "next")
)
def copy_and_poison(world: World, kind: str) -> None:
    """A page is copied in and poisoned at once: its reader gets all of one or of the other."""
    area = mapped(world, kind)
    uffd = world.uffd(area)
    reader = world.task("reader", lambda me: me.read(area[0], 3))
    world.task("copier", lambda me: me.copy(uffd, area[0], b"new", area.step))
    world.task("poisoner", lambda me: me.poison(uffd, area[0], area.step))
    only(world, reader, b"new", "SIGBUS")


@of_each(*ALL, group="fills")
def copy_without_wake(world: World, kind: str) -> None:
    """A page is copied in without a wake-up, and then woken for: neither reader sleeps on."""
    area = mapped(world, kind)
    uffd = world.uffd(area)

    def serve(me: Caller) -> object:
        done = me.copy(uffd, area[0], b"new", area.step, wake=False)
        return [done, me.wake(uffd, area[0], area.step)]

    one = world.task("reader a", lambda me: me.read(area[0], 3))
    two = world.task("reader b", lambda me: me.read(area[0], 3))
    world.task("handler", serve)
    only(world, one, b"new")
    only(world, two, b"new")


@of_each(ANON, SHMEM, HUGETLB, group="fills")
def copy_of_two_pages_and_of_one(world: World, kind: str) -> None:
    """Two pages are copied in while another copy takes the second: no byte is written twice."""
    area = mapped(world, kind, 2)
    uffd = world.uffd(area)
    data = (b"1" * area.step + b"2" * area.step) if kind != HUGETLB else b"1"
    reader = world.task("reader", lambda me: me.read(area[1]))
    world.task("both", lambda me: me.copy(uffd, area[0], data, area.length))
    one = world.task("second", lambda me: me.copy(uffd, area[1], b"x", area.step))
    second = b"2" if kind != HUGETLB else b"\0"

    def holds() -> object:
        return reader.value == (b"x" if one.value == area.step else second)

    both(world, "the reader must see what the one successful copy brought", holds)


@scenario(group="fills")
def fault_around_and_copy(world: World) -> None:
    """A read maps its cached neighbours while its own page is copied in: both are right."""
    area = world.map("shmem", 2)
    alias = world.map(pages=2, file=area.file)
    world.store(alias[1], b"old")
    uffd = world.uffd(area)
    reader = world.task("reader", lambda me: [me.read(area[0]), me.read(area[1])])
    world.task("neighbour", lambda me: me.read(area[1]), may_wait=True)
    world.task("handler", lambda me: me.copy(uffd, area[0], b"new"))
    both(world, "wrong bytes", lambda: reader.value == [b"n", b"o"])


@scenario(group="fills")
def copy_and_write_through_alias(world: World) -> None:
    """A shared page is copied in while another mapping makes it: COPY or the writer is first."""
    area = world.map("shmem")
    alias = world.map(file=area.file)
    uffd = world.uffd(area)
    reader = world.task("reader", lambda me: me.read(area[0]), may_wait=True)
    copier = world.task("handler", lambda me: me.copy(uffd, area[0], b"new"))
    world.task("writer", lambda me: me.write(alias[0], b"w"))
    only(world, copier, area.step, "EEXIST")
    only(world, reader, b"n", b"w", WAITS)
    both(world, "the write was lost", lambda: world.peek(alias[0]) == b"w")


@scenario(group="fills")
def copy_from_a_page_that_is_written(world: World) -> None:
    """The source of a COPY is dropped meanwhile: the reader gets its bytes or zeros."""
    area = world.map("anon")
    source = world.map("anon")
    world.store(source[0], b"new")
    uffd = world.uffd(area)
    reader = world.task("reader", lambda me: me.read(area[0], 3))
    world.task("handler", lambda me: me.copy(uffd, area[0], source[0]))
    world.task("dropper", lambda me: me.madvise(source[0], source.length, mman.MADV_DONTNEED))
    only(world, reader, b"new", b"\0\0\0")
