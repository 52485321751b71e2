"""Files that stand for those of memfd_create(2), where another memory type is under test."""

from __future__ import annotations

import os

import pytest

from userfault.check.live import syscalls as nr
from userfault.check.live.steps.files import memfd_create
from userfault.check.live.steps.requests import Place
from userfault.check.live.wire import Step
from userfault.kernel import calls
from userfault.uapi import mman


def step(flags: int, memfds: str) -> Step:
    place = Place(1, "/disk", bytes, memfds)
    return next(memfd_create(calls.MemfdCreate(flags), place))


@pytest.mark.parametrize(
    ("flags", "kept"),
    [
        (0, 0),
        (mman.MFD_CLOEXEC, os.O_CLOEXEC),
        (mman.MFD_CLOEXEC | mman.MFD_ALLOW_SEALING, os.O_CLOEXEC),
    ],
)
def test_a_memfd_is_a_file_without_a_name_in_its_place(flags: int, kept: int) -> None:
    opens = step(flags, "/outside")

    assert opens.number == nr.OPEN
    assert opens.args[1] == os.O_TMPFILE | os.O_RDWR | kept
    assert opens.payload == b"/outside\0"


@pytest.mark.parametrize("flags", [mman.MFD_HUGETLB, mman.MFD_CLOEXEC | 0x80])
def test_huge_pages_and_unknown_flags_stay_memfd_create(flags: int) -> None:
    assert step(flags, "/outside").number == nr.MEMFD_CREATE


def test_without_a_place_it_is_memfd_create() -> None:
    assert step(mman.MFD_CLOEXEC, "").number == nr.MEMFD_CREATE
