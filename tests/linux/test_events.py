"""Events: what changes the address space is reported, and holds its caller until it was read."""

from __future__ import annotations

import errno
import os
import select
import socket
from collections.abc import Iterator
from typing import Any

import pytest

from helpers import child
from helpers.pages import PAGE, pages
from helpers.skips import need_root
from helpers.world import World
from userfault.kernel.errors import KernelError, OwnerGone, RegistrationRefused, TryAgain
from userfault.kernel.events import Fork, PageFault, Remap, Remove, Unmap
from userfault.kernel.modes import Feature, Mode
from userfault.kernel.protocol import Outcome, State
from userfault.linux import libc
from userfault.linux.uffd import LiveUserfaultfd
from userfault.uapi import mman

EVENTS = Feature.EVENT_REMAP | Feature.EVENT_REMOVE | Feature.EVENT_UNMAP
KINDS = ("anon", "shmem", "hugetlb")


@pytest.mark.parametrize(
    ("name", "advice"),
    [
        ("anon", mman.MADV_DONTNEED),
        ("anon", mman.MADV_FREE),
        ("shmem", mman.MADV_DONTNEED),
        ("shmem", mman.MADV_REMOVE),
        ("hugetlb", mman.MADV_REMOVE),
    ],
)
def test_dropping_pages_waits_until_the_remove_event_was_read(
    world: World, name: str, advice: int
) -> None:
    mapping, uffd = world.registered(name, 2, features=EVENTS)
    size = mapping.memory.page_size
    uffd.copy(mapping.address, bytes(2 * size), 2 * size)

    drop = world.task().madvise(mapping.address, size, advice)
    world.settle()

    assert (drop.state, drop.waits_for) == (State.BLOCKED, "event")
    assert world.pagemap.present(mapping.address)  # the event comes before the change
    assert list(uffd.read()) == [Remove(mapping.address, mapping.address + size)]
    assert drop.result().errno == 0
    if advice != mman.MADV_FREE:  # which frees when memory is short
        assert not world.pagemap.present(mapping.address)
    assert world.pagemap.present(mapping.address + size)


@pytest.mark.parametrize("name", KINDS)
def test_unmapping_waits_until_the_unmap_event_was_read(world: World, name: str) -> None:
    mapping, uffd = world.registered(name, 2, features=EVENTS)
    size = mapping.memory.page_size

    unmap = world.task().munmap(mapping.address + size, size)
    world.settle()

    assert unmap.waits_for == "event"
    assert list(uffd.read()) == [Unmap(mapping.address + size, mapping.address + 2 * size)]
    unmap.result()
    uffd.copy(mapping.address, bytes(size), size)  # the rest is registered as before


@pytest.mark.parametrize("name", ["anon", "shmem"])
def test_moving_a_mapping_raises_remap_then_unmap_and_keeps_the_registration(
    world: World, name: str
) -> None:
    mapping, uffd = world.registered(name, 2, features=EVENTS)
    room = world.map("anon", 4)  # a place to move to
    task = world.task()
    move = task.mremap(
        mapping.address,
        2 * PAGE,
        2 * PAGE,
        mman.MREMAP_MAYMOVE | mman.MREMAP_FIXED,
        room.address,
    )
    seen: list[Any] = []
    while move.state is not State.DONE:
        seen += uffd.read()
    seen += uffd.read()

    assert move.result().value == room.address
    assert seen == [
        Remap(mapping.address, room.address, 2 * PAGE),
        Unmap(mapping.address, mapping.address + 2 * PAGE),
    ]
    touch = task.read(room.address, PAGE)
    world.settle()
    assert list(uffd.read()) == [PageFault(room.address, 0)]
    uffd.copy(room.address, pages(1, 1), PAGE)
    assert touch.result().data == pages(1, 1)


def test_without_the_feature_a_moved_mapping_loses_its_registration(world: World) -> None:
    mapping, uffd = world.registered("anon")
    room = world.map("anon")
    libc.mremap(mapping.address, PAGE, PAGE, mman.MREMAP_MAYMOVE | mman.MREMAP_FIXED, room.address)

    with pytest.raises(KernelError, match="ENOENT"):
        uffd.copy(room.address, pages(1, 1), PAGE)


def test_protecting_and_punching_raise_no_event(world: World) -> None:
    mapping, uffd = world.registered("shmem", 2, features=EVENTS)
    assert mapping.backing
    task = world.task()

    task.mprotect(mapping.address, PAGE, mman.PROT_READ).result()
    mapping.backing.punch_hole(0, PAGE)
    mapping.backing.truncate(PAGE)

    assert list(uffd.read()) == []


def test_fills_fail_with_try_again_while_an_event_is_pending(world: World) -> None:
    mapping, uffd = world.registered("shmem", 2, mode=Mode.MISSING | Mode.WP, features=EVENTS)
    drop = world.task().madvise(mapping.address, PAGE, mman.MADV_DONTNEED)
    world.settle()
    there = mapping.address + PAGE

    for fill in (
        lambda: uffd.copy(there, pages(1, 1), PAGE),
        lambda: uffd.zeropage(there, PAGE),
        lambda: uffd.continue_(there, PAGE),
        lambda: uffd.poison(there, PAGE),
        lambda: uffd.writeprotect(there, PAGE, protect=True),
    ):
        with pytest.raises(TryAgain, match="event of this context has not been read") as caught:
            fill()
        assert (caught.value.done, caught.value.resume) == (0, there)
    uffd.register(mapping.address, mapping.length, Mode.MISSING | Mode.WP)  # is not held up
    uffd.wake(mapping.address, PAGE)

    assert list(uffd.read()) == [Remove(mapping.address, mapping.address + PAGE)]
    drop.result()
    assert uffd.copy(there, pages(1, 1), PAGE) == PAGE


@pytest.mark.parametrize("name", ["anon", "shmem"])
def test_a_fill_that_a_move_overtakes_fails_with_enoent_and_the_next_with_try_again(
    world: World, name: str
) -> None:
    """It has looked for events when it begins, and looks for its mapping later, here once more when
    its source was faulted in: the mapping has gone, and nobody has read where to.  (6.1 to 6.8 look
    for events after they have locked, and before they look for the mapping.)"""
    mapping, uffd = world.registered(name, features=EVENTS)
    source, source_uffd = world.registered("anon")
    room = world.map("anon")
    fill = world.task().call(
        lambda: Outcome(value=uffd.copy(mapping.address, source.address, PAGE))
    )
    world.settle()
    assert fill.waits_for == "fault"
    move = world.task().mremap(
        mapping.address, PAGE, PAGE, mman.MREMAP_MAYMOVE | mman.MREMAP_FIXED, room.address
    )
    world.settle()
    assert move.waits_for == "event"

    source_uffd.copy(source.address, pages(1, 1), PAGE)
    locks_each_mapping = tuple(map(int, os.uname().release.split(".")[:2])) >= (6, 9)
    assert fill.result().errno == (errno.ENOENT if locks_each_mapping else errno.EAGAIN)
    with pytest.raises(TryAgain):
        uffd.copy(mapping.address, pages(1, 1), PAGE)

    while move.state is not State.DONE:
        uffd.read()
    assert uffd.copy(room.address, pages(1, 1), PAGE) == PAGE


def test_faults_are_read_before_events(world: World) -> None:
    mapping, uffd = world.registered("anon", 2, features=EVENTS)
    drop = world.task().madvise(mapping.address, PAGE, mman.MADV_DONTNEED)
    world.settle()
    touch = world.task().read(mapping.address + PAGE, 1)
    world.settle()

    assert [type(event) for event in uffd.read()] == [PageFault, Remove]
    drop.result()
    uffd.zeropage(mapping.address + PAGE, PAGE)
    touch.result()


def test_closing_releases_who_waits_for_an_event(world: World) -> None:
    mapping, uffd = world.registered("anon", features=EVENTS)
    drop = world.task().madvise(mapping.address, PAGE, mman.MADV_DONTNEED)
    world.settle()

    uffd.close()

    assert drop.result().errno == 0


# --- other processes -----------------------------------------------------------------------------


class Client:
    """A process that registered two pages and sent its userfaultfd here."""

    def __init__(self, function: str, features: Feature) -> None:
        self.test, theirs = socket.socketpair()
        with theirs:
            self._process = child.start(
                f"linux.children:{function}", theirs.fileno(), pass_fds=[theirs.fileno()]
            )
        self.test.settimeout(20)
        data, fds, _, _ = socket.recv_fds(self.test, 8, 1)
        self.address = int.from_bytes(data, "little")
        self.uffd = LiveUserfaultfd.adopt(fds[0], features)

    def answer(self) -> Any:
        """What its function returned, at its end."""
        return child.finish(self._process)

    def close(self) -> None:
        self.uffd.close()
        self.test.close()
        self._process.kill()
        self._process.communicate()


@pytest.fixture
def clients(leaks_nothing: None) -> Iterator[list[Client]]:  # noqa: ARG001
    """Clients that are ended after the test."""
    made: list[Client] = []
    yield made
    for client in made:
        client.close()


def _wait_for_events(uffd: LiveUserfaultfd) -> list[Any]:
    assert select.select([uffd], [], [], 20)[0], "no event came"
    return list(uffd.read())


def test_a_fork_hands_over_a_context_that_serves_the_child(clients: list[Client]) -> None:
    need_root()
    client = Client("fork_with_events", Feature.EVENT_FORK)
    clients.append(client)

    (fork,) = _wait_for_events(client.uffd)

    assert isinstance(fork, Fork)
    with fork.userfaultfd as of_child:
        assert of_child.features == Feature.EVENT_FORK
        assert list(client.uffd.read()) == []
        (fault,) = _wait_for_events(of_child)
        assert fault.address == client.address + PAGE
        of_child.copy(fault.address, pages(11, 1), PAGE)
        assert client.answer() == [11]
        with pytest.raises(OwnerGone):
            of_child.copy(client.address, pages(1, 1), PAGE)


def test_without_the_feature_a_forked_child_gets_zeros(clients: list[Client]) -> None:
    client = Client("fork_without_events", Feature(0))
    clients.append(client)

    assert client.answer() == [0]
    assert list(client.uffd.read()) == []


def test_a_context_outlives_its_owner_and_says_that_it_is_gone(clients: list[Client]) -> None:
    client = Client("die_with_registered_memory", Feature(0))
    clients.append(client)
    uffd, there = client.uffd, client.address
    assert uffd.copy(there, pages(1, 1), PAGE) == PAGE  # while it lives, from here
    client.test.send(b"x")
    assert client.answer() is True

    for fill in (
        lambda: uffd.copy(there + PAGE, pages(1, 1), PAGE),
        lambda: uffd.zeropage(there + PAGE, PAGE),
        lambda: uffd.poison(there + PAGE, PAGE),
        lambda: uffd.writeprotect(there + PAGE, PAGE, protect=True),
    ):
        with pytest.raises(OwnerGone, match="has exited"):
            fill()
    with pytest.raises(RegistrationRefused, match="has exited"):
        uffd.register(there, PAGE, Mode.MISSING)
    uffd.wake(there, PAGE)
    assert list(uffd.read()) == []


def test_only_the_owner_moves_pages(clients: list[Client], world: World) -> None:
    client = Client("die_with_registered_memory", Feature(0))
    clients.append(client)
    source = world.map("anon")

    with pytest.raises(KernelError) as caught:
        client.uffd.move(client.address, source.address, PAGE)
    assert (caught.value.errno, caught.value.done) == (22, 0)
    client.test.send(b"x")
    client.answer()


def test_pages_of_another_process_are_filled_from_this_one(clients: list[Client]) -> None:
    client = Client("die_with_registered_memory", Feature(0))
    clients.append(client)

    client.uffd.copy(client.address, pages(5, 2), 2 * PAGE)

    with open(f"/proc/{client._process.pid}/mem", "rb", buffering=0) as memory:
        assert os.pread(memory.fileno(), 2 * PAGE, client.address) == pages(5, 2)
    client.test.send(b"x")
    client.answer()
