"""guest_memfd: made, mapped and written; no released kernel lets userfaultfd register it."""

from __future__ import annotations

import errno
import os

import pytest

from helpers.pages import PAGE, pages
from helpers.skips import absent, need_features
from helpers.world import World
from userfault.kernel.errors import KernelError, MemoryUnavailable, RegistrationRefused
from userfault.kernel.memtypes import memory
from userfault.kernel.modes import Feature, Mode
from userfault.linux import guest_memfd, libc
from userfault.linux.process import LiveProcess


def test_it_can_be_mapped_and_written(world: World) -> None:
    mapping = world.map("guest_memfd", 3)
    task = world.task()

    task.write(mapping.address + PAGE, pages(1, 1)).result()

    assert task.read(mapping.address, 3 * PAGE).result().data == bytes(PAGE) + pages(1, 1) + bytes(
        PAGE
    )


def test_its_file_is_read_and_written_through_an_alias(world: World) -> None:
    mapping = world.map("guest_memfd", 3)
    assert mapping.backing

    mapping.backing.write(PAGE - 4, b"mine" + pages(1, 1))

    assert mapping.backing.read(PAGE - 8, 12) == bytes(4) + b"mine" + pages(1, 1)[:4]
    assert world.task().read(mapping.address + PAGE, PAGE).result().data == pages(1, 1)


def test_reading_its_file_allocates_nothing(world: World) -> None:
    mapping = world.map("guest_memfd", 2)
    assert mapping.backing

    assert mapping.backing.read(0, 2 * PAGE) == bytes(2 * PAGE)

    assert libc.mincore(mapping.address, 2 * PAGE) == bytes(2)


def test_holes_can_be_punched(world: World) -> None:
    mapping = world.map("guest_memfd")
    assert mapping.backing
    mapping.backing.write(0, pages(1, 1))

    mapping.backing.punch_hole(0, PAGE)

    assert world.task().read(mapping.address, PAGE).result().data == bytes(PAGE)


@pytest.mark.parametrize("mode", [Mode.MISSING, Mode.MINOR, Mode.WP, Mode.MISSING | Mode.MINOR])
def test_registration_is_refused_and_the_error_says_that_no_release_has_it(
    world: World, mode: Mode
) -> None:
    mapping, uffd = world.map("guest_memfd"), world.userfaultfd()

    with pytest.raises(RegistrationRefused) as caught:
        uffd.register(mapping.address, PAGE, mode, memory=mapping.memory)

    assert caught.value.errno == errno.EINVAL
    assert caught.value.cause == guest_memfd.NOT_IN_ANY_RELEASE
    assert "guest_memfd (4 KiB pages) in mode" in str(caught.value)
    assert "shmem or hugetlb" in caught.value.cure


def test_writes_can_be_tracked_but_nothing_can_be_filled(world: World) -> None:
    need_features(Feature.WP_ASYNC)
    mapping, uffd = world.map("guest_memfd"), world.userfaultfd(Feature.WP_ASYNC)

    uffd.register(mapping.address, PAGE, Mode.WP, memory=mapping.memory)

    with pytest.raises(KernelError) as caught:
        uffd.copy(mapping.address, pages(1, 1), PAGE)
    assert caught.value.errno == errno.EINVAL


def test_the_virtual_machine_stays_open_by_the_memory_alone() -> None:
    if not os.access(guest_memfd.DEVICE, os.R_OK | os.W_OK):
        absent(f"no access to {guest_memfd.DEVICE}")
    mapping = LiveProcess().map(memory("guest_memfd"), PAGE)
    libc.write_memory(mapping.address, b"alive")
    assert mapping.backing
    mapping.backing.close()

    assert libc.read_memory(mapping.address, 5) == b"alive"
    mapping.close()


def test_without_kvm_the_error_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guest_memfd, "DEVICE", "/nonexistent/kvm")

    with pytest.raises(MemoryUnavailable, match="load the kvm module"):
        LiveProcess().map(memory("guest_memfd"), PAGE)


def test_a_device_that_is_no_kvm_is_an_error_and_leaks_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(guest_memfd, "DEVICE", "/dev/null")

    with pytest.raises(MemoryUnavailable, match="KVM_CREATE_VM"):
        LiveProcess().map(memory("guest_memfd"), PAGE)
