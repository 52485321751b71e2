"""Bytes into a guest_memfd: never over what is there, and by a mapping where it has no write."""

from __future__ import annotations

import errno
import mmap
import os
from collections.abc import Iterator
from typing import Any

import pytest

from helpers.skips import absent
from userfault.kernel.errors import MemoryUnavailable
from userfault.linux import guest_memfd
from userfault.serve.guest_memory import IntoGuest

PAGE, PAGES = 4096, 64


def filled(number: int) -> bytes:
    return bytes([number]) * PAGE


@pytest.fixture
def fds() -> Iterator[tuple[int, int]]:
    """A bitmap, all set, and states."""
    made = os.memfd_create("bitmap"), os.memfd_create("states")
    os.write(made[0], b"\xff" * (PAGES // 8))
    os.ftruncate(made[1], PAGES)
    yield made
    for fd in made:
        os.close(fd)


@pytest.fixture(params=["memfd", "guest_memfd"])
def guest(request: pytest.FixtureRequest) -> Iterator[int]:
    """A real one knows no write on a released kernel: it goes through a mapping."""
    if request.param == "memfd":
        fd = os.memfd_create("guest")
        os.ftruncate(fd, PAGES * PAGE)
    else:
        try:
            fd = guest_memfd.create(PAGES * PAGE)
        except (MemoryUnavailable, OSError) as error:
            absent(str(error))
    yield fd
    os.close(fd)


def test_a_page_is_there_when_its_bit_goes_and_a_hole_is_zeros(
    guest: int, fds: tuple[int, int]
) -> None:
    into = IntoGuest(guest, *fds, PAGES)
    seen = mmap.mmap(guest, PAGES * PAGE)
    bits = mmap.mmap(fds[0], PAGES // 8)
    assert not into.there(3 * PAGE, 2 * PAGE)
    into.put(3 * PAGE, filled(3) + filled(4))
    assert seen[3 * PAGE : 5 * PAGE] == filled(3) + filled(4)
    assert bits[0] == 0b11100111
    assert into.there(3 * PAGE, 2 * PAGE)
    into.put(3 * PAGE, filled(9))
    assert seen[3 * PAGE : 4 * PAGE] == filled(3), "what is there stays"
    bits[0] |= 1 << 4  # the VMM punched a hole there, and says so
    assert into.there(4 * PAGE, PAGE)
    assert seen[4 * PAGE : 5 * PAGE] == bytes(PAGE)
    assert bits[0] == 0b11100111
    into.dropped(8 * PAGE, PAGE)
    into.put(8 * PAGE, filled(8))
    assert seen[8 * PAGE : 9 * PAGE] == bytes(PAGE), "it was given back before it came"
    into.close()
    seen.close()


def test_a_page_that_the_kernel_has_already_is_passed_over(
    fds: tuple[int, int], monkeypatch: Any
) -> None:
    """EEXIST of a write: its predecessor was killed before the bit went."""
    guest = os.memfd_create("guest")
    os.ftruncate(guest, PAGES * PAGE)
    os.pwrite(guest, filled(7), 7 * PAGE)

    def refuses(fd: int, data: bytes, offset: int) -> int:
        del fd, data, offset
        raise OSError(errno.EEXIST, os.strerror(errno.EEXIST))

    into = IntoGuest(guest, *fds, PAGES)
    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", refuses)
        into.put(7 * PAGE, filled(1))
    assert os.pread(guest, PAGE, 7 * PAGE) == filled(7)
    assert not into.bits[7]
    into.close()
    os.close(guest)


def test_a_worker_that_was_killed_before_the_bit_went_is_followed_by_the_same_bytes(
    fds: tuple[int, int], monkeypatch: Any
) -> None:
    guest = os.memfd_create("guest")
    os.ftruncate(guest, PAGES * PAGE)
    one = IntoGuest(guest, *fds, PAGES)

    def killed(bit: int) -> None:
        raise KeyboardInterrupt(bit)

    with monkeypatch.context() as patch:
        patch.setattr(one.bits, "clear", killed)
        with pytest.raises(KeyboardInterrupt):
            one.put(0, filled(1))
    two = IntoGuest(guest, *fds, PAGES)
    assert not two.there(0, PAGE)
    two.put(0, filled(1))
    assert os.pread(guest, PAGE, 0) == filled(1)
    one.close()
    two.close()
    os.close(guest)
