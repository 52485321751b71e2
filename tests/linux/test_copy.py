"""UFFDIO_COPY: from any buffer without a copy, whole or with the place to go on."""

from __future__ import annotations

import array
import ctypes
import errno
import mmap
import os
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from helpers.pages import PAGE, numbers, pages
from helpers.world import REGISTRABLE, World
from userfault.kernel.errors import KernelError, NotRegistered, PageExists, TryAgain, UsageError
from userfault.kernel.modes import Mode
from userfault.linux import libc
from userfault.linux.hugepool import read_pool
from userfault.linux.libc import Pinned
from userfault.linux.uffd import LiveUserfaultfd
from userfault.uapi import mman

_HUGE = mman.MAP_PRIVATE | mman.MAP_ANONYMOUS | mman.MAP_HUGETLB

TWO = pages(1, 2)


@pytest.mark.parametrize("name", REGISTRABLE)
def test_copied_pages_are_there_and_hold_what_was_copied(world: World, name: str) -> None:
    mapping, uffd = world.registered(name, 2)
    size = mapping.memory.page_size
    data = pages(0, 2 * size // PAGE)

    assert uffd.copy(mapping.address, data, 2 * size) == 2 * size

    entries = world.pagemap.entries(mapping.address, len(data) // PAGE)
    assert all(entry.present for entry in entries)
    assert world.task().read(mapping.address, len(data)).result().data == data


@pytest.mark.parametrize("name", REGISTRABLE)
def test_only_the_copied_page_appears(world: World, name: str) -> None:
    mapping, uffd = world.registered(name, 3)
    size = mapping.memory.page_size

    uffd.copy(mapping.address + size, pages(1, size // PAGE), size)

    there = [world.pagemap.present(mapping.address + at * size) for at in range(3)]
    assert there == [False, True, False]


@pytest.mark.parametrize("name", ["shmem", "hugetlb"])
def test_other_mappings_of_shared_memory_see_the_copy_at_once(world: World, name: str) -> None:
    mapping, uffd = world.registered(name)
    alias = world.map(name, backing=mapping.backing)
    size = mapping.memory.page_size

    uffd.copy(mapping.address, pages(9, size // PAGE), size)

    assert world.task().read(alias.address, size).result().data == pages(9, size // PAGE)
    assert mapping.backing
    assert mapping.backing.read(PAGE, PAGE) == pages(10, 1) if size > PAGE else pages(9, 1)


def test_a_copy_into_private_shmem_leaves_the_file_alone(world: World) -> None:
    mapping, uffd = world.registered("shmem-private")
    assert mapping.backing

    uffd.copy(mapping.address, pages(3, 1), PAGE)

    assert mapping.backing.read(0, PAGE) == bytes(PAGE)


# --- sources -------------------------------------------------------------------------------------


def _mapped_file(path: Any) -> mmap.mmap:
    path.write_bytes(TWO)
    with open(path, "rb") as file:
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)


@pytest.fixture(
    params=[
        lambda _: bytes(TWO),
        lambda _: bytearray(TWO),
        lambda _: memoryview(TWO),
        lambda _: memoryview(b"x" + TWO)[1:],
        lambda tmp: _mapped_file(tmp / "image"),
        lambda _: array.array("Q", TWO),
        lambda _: np.frombuffer(TWO, dtype=np.uint64),
        lambda _: np.frombuffer(TWO, dtype=np.uint8).reshape(2, PAGE),
        lambda _: (ctypes.c_char * len(TWO)).from_buffer_copy(TWO),
    ],
    ids=[
        "bytes",
        "bytearray",
        "memoryview",
        "unaligned-memoryview",
        "read-only-mmap",
        "array",
        "numpy",
        "numpy-2d",
        "ctypes",
    ],
)
def source(request: pytest.FixtureRequest, tmp_path: Any) -> Iterator[Any]:
    make: Callable[[Any], Any] = request.param
    made = make(tmp_path)
    yield made
    if isinstance(made, mmap.mmap):
        made.close()


def test_any_contiguous_buffer_is_a_source(world: World, source: Any) -> None:
    mapping, uffd = world.registered("anon", 2)

    assert uffd.copy(mapping.address, source, 2 * PAGE) == 2 * PAGE

    assert numbers(world.task().read(mapping.address, 2 * PAGE).result().data) == [1, 2]


def test_the_kernel_copies_from_the_buffer_itself(
    world: World, source: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What goes to the ioctl is the address of the object's own memory."""
    mapping, uffd = world.registered("anon", 2)
    asked: list[int] = []
    real = LiveUserfaultfd.copy

    def watched(self: LiveUserfaultfd, dst: int, src: int | Any, length: int, **modes: bool) -> int:
        if isinstance(src, int):
            asked.append(src)
        return real(self, dst, src, length, **modes)

    monkeypatch.setattr(LiveUserfaultfd, "copy", watched)
    uffd.copy(mapping.address, source, 2 * PAGE)

    assert asked == [_address_by_another_way(source)]


def _address_by_another_way(source: Any) -> int:
    address: int = np.frombuffer(source, dtype=np.uint8).ctypes.data
    return address


def test_an_address_is_a_source(world: World) -> None:
    mapping, uffd = world.registered("anon", 2)
    data = ctypes.create_string_buffer(b"skew" + TWO, len(TWO) + 4)

    uffd.copy(mapping.address, ctypes.addressof(data) + 4, 2 * PAGE)

    assert numbers(world.task().read(mapping.address, 2 * PAGE).result().data) == [1, 2]


def test_the_buffer_is_held_in_place_during_the_call_only() -> None:
    data = bytearray(TWO)

    with Pinned(data) as pinned:
        assert pinned.length == len(TWO)
        with pytest.raises(BufferError):
            data.extend(b"more")
    data.extend(b"more")


def test_a_buffer_with_gaps_is_a_buffer_error(world: World) -> None:
    mapping, uffd = world.registered("anon")

    for gaps in (memoryview(TWO)[::2], np.zeros((64, 128), dtype=np.uint8)[:, ::2]):
        with pytest.raises((BufferError, ValueError), match="contiguous"):
            uffd.copy(mapping.address, gaps, PAGE)
    assert not world.pagemap.present(mapping.address)


def test_an_object_without_a_buffer_is_a_type_error(world: World) -> None:
    mapping, uffd = world.registered("anon")

    with pytest.raises(TypeError):
        uffd.copy(mapping.address, "text", PAGE)


def test_a_buffer_that_is_too_short_is_a_usage_error(world: World) -> None:
    mapping, uffd = world.registered("anon", 2)

    with pytest.raises(UsageError, match="UFFDIO_COPY of 8192 bytes from a buffer of 4096"):
        uffd.copy(mapping.address, pages(0, 1), 2 * PAGE)
    assert not world.pagemap.present(mapping.address)


def test_an_unreadable_source_is_efault_and_names_the_cure(world: World) -> None:
    mapping, uffd = world.registered("anon", 2)
    hole = world.map("anon", 2)
    libc.write_memory(hole.address, pages(4, 1))
    libc.mprotect(hole.address + PAGE, PAGE, mman.PROT_NONE)

    with pytest.raises(KernelError) as first:
        uffd.copy(mapping.address, hole.address + PAGE, PAGE)
    assert (first.value.errno, first.value.done) == (errno.EFAULT, 0)
    assert "source buffer" in first.value.cure

    with pytest.raises(TryAgain) as second:
        uffd.copy(mapping.address, hole.address, 2 * PAGE)
    assert second.value.done == PAGE


# --- refusals ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", REGISTRABLE)
def test_copy_over_a_present_page_is_refused_and_says_where_to_resume(
    world: World, name: str
) -> None:
    mapping, uffd = world.registered(name)
    size = mapping.memory.page_size
    uffd.copy(mapping.address, pages(1, size // PAGE), size)

    with pytest.raises(PageExists) as caught:
        uffd.copy(mapping.address, bytes(size), size)

    assert (caught.value.done, caught.value.resume) == (0, mapping.address)
    assert "a page" in caught.value.cause
    assert world.task().read(mapping.address, PAGE).result().data == pages(1, 1)


@pytest.mark.parametrize("name", REGISTRABLE)
def test_a_copy_that_stops_half_way_tells_how_far_it_came_and_resuming_tells_why(
    world: World, name: str
) -> None:
    mapping, uffd = world.registered(name, 3)
    size = mapping.memory.page_size
    data = pages(0, 3 * size // PAGE)
    uffd.copy(mapping.address + size, memoryview(data)[size : 2 * size], size)

    with pytest.raises(TryAgain) as half:
        uffd.copy(mapping.address, data, 3 * size)
    assert (half.value.done, half.value.resume) == (size, mapping.address + size)
    assert f"after {size} bytes" in str(half.value)

    with pytest.raises(PageExists) as rest:
        uffd.copy(half.value.resume, memoryview(data)[size:], 2 * size)
    assert (rest.value.done, rest.value.resume) == (0, mapping.address + size)

    uffd.copy(mapping.address + 2 * size, memoryview(data)[2 * size :], size)
    assert world.task().read(mapping.address, len(data)).result().data == data


def test_shared_memory_that_is_cached_but_not_mapped_exists(world: World) -> None:
    mapping, uffd = world.registered("shmem")
    assert mapping.backing
    mapping.backing.write(0, pages(8, 1))

    with pytest.raises(PageExists):
        uffd.copy(mapping.address, pages(1, 1), PAGE)
    assert not world.pagemap.present(mapping.address)


@pytest.mark.parametrize(("shift", "length"), [(8, PAGE), (0, PAGE - 8), (0, 0)])
def test_a_destination_that_is_not_whole_pages_is_einval(
    world: World, shift: int, length: int
) -> None:
    mapping, uffd = world.registered("anon", 2)

    with pytest.raises(KernelError) as caught:
        uffd.copy(mapping.address + shift, TWO, length)

    assert (caught.value.errno, caught.value.done) == (errno.EINVAL, 0)


def test_part_of_a_huge_page_is_einval(world: World) -> None:
    mapping, uffd = world.registered("hugetlb")

    with pytest.raises(KernelError, match="align start and length") as caught:
        uffd.copy(mapping.address, pages(0, 1), PAGE)
    assert caught.value.errno == errno.EINVAL


def test_a_copy_past_the_end_of_the_mapping_does_nothing(world: World) -> None:
    mapping, uffd = world.registered("shmem", 2)

    with pytest.raises(NotRegistered):
        uffd.copy(mapping.address + PAGE, TWO, 2 * PAGE)
    assert not world.pagemap.present(mapping.address + PAGE)


def test_one_copy_does_not_cross_where_mprotect_split_the_mapping(world: World) -> None:
    mapping, uffd = world.registered("anon", 2)
    libc.mprotect(mapping.address + PAGE, PAGE, mman.PROT_READ)

    with pytest.raises(NotRegistered, match="cut the call"):
        uffd.copy(mapping.address, TWO, 2 * PAGE)

    assert uffd.copy(mapping.address, TWO, PAGE) == PAGE
    assert uffd.copy(mapping.address + PAGE, TWO, PAGE) == PAGE  # PROT_READ is no obstacle


def test_write_protection_by_copy_needs_the_mode(world: World) -> None:
    mapping, uffd = world.registered("anon")

    with pytest.raises(KernelError) as caught:
        uffd.copy(mapping.address, TWO, PAGE, wp=True)
    assert caught.value.errno == errno.EINVAL


def test_a_copy_can_write_protect_what_it_installs(world: World) -> None:
    mapping, uffd = world.registered("anon", mode=Mode.MISSING | Mode.WP)

    uffd.copy(mapping.address, TWO, PAGE, wp=True)

    assert world.pagemap.entries(mapping.address, 1)[0].uffd_wp


def test_a_copy_beyond_the_end_of_the_file_says_so(world: World) -> None:
    mapping, uffd = world.registered("shmem-private", 2)
    assert mapping.backing
    mapping.backing.truncate(PAGE)

    with pytest.raises(KernelError, match="end of the file") as caught:
        uffd.copy(mapping.address + PAGE, TWO, PAGE)
    assert caught.value.errno == errno.EFAULT


def test_an_empty_pool_shows_as_eexist_or_enomem(world: World) -> None:
    """On 6.18 and newer EEXIST does not mean that there is a page: Traits.exists_is_ambiguous."""
    world.lock_pools()
    first, uffd = world.registered("hugetlb")
    assert first.backing
    size = first.memory.page_size
    # A hole punched into a private mapping's reservation is the simplest way to an unreserved page:
    # an alias beyond what was reserved needs a page that the pool does not have.
    address = libc.mmap(
        0, size, 3, mman.MAP_PRIVATE | mman.MAP_NORESERVE, first.backing.fileno(), 0
    )
    spare = read_pool(size)
    length = spare.available * size
    hoard = libc.mmap(0, length, 3, _HUGE, -1, 0) if length else 0  # reserves what nobody has
    try:
        uffd.register(address, size, Mode.MISSING)
        uffd.copy(first.address, bytes(size), size)
        with pytest.raises(KernelError) as caught:
            uffd.copy(address, bytes(size), size)
        assert caught.value.errno in (errno.ENOMEM, errno.EEXIST)
        assert not world.pagemap.present(address)
        if caught.value.errno == errno.EEXIST:
            assert first.memory.traits.exists_is_ambiguous
    finally:
        libc.munmap(address, size)
        if hoard:
            libc.munmap(hoard, length)


def test_the_error_of_a_closed_descriptor_is_not_a_crash(world: World) -> None:
    mapping, uffd = world.registered("anon")
    uffd.close()

    with pytest.raises((ValueError, OSError)):
        uffd.copy(mapping.address, TWO, PAGE)
    assert os.getpid()
