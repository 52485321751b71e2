"""Wherever the public interface takes a number, NumPy's are numbers, as they are for mmap."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import userfault
from helpers.pages import PAGE, numbers, pages
from helpers.skips import need_features
from helpers.stores import store
from pager_live import functions
from userfault import Policy, UsageError, lazy, lazy_array
from userfault.kernel.memtypes import memory
from userfault.kernel.modes import Feature, Mode
from userfault.linux.libc import Pinned
from userfault.linux.process import LiveKernel

N: Callable[[Any], Any] = np.int64
YES: Any = np.bool_(True)
NO: Any = np.bool_(False)
F: Callable[[Any], Any] = np.float32


def test_length_offset_and_page_size(image: Path) -> None:
    with lazy(image, length=N(2 * PAGE), offset=N(PAGE), page_size=N(PAGE)) as mapped:
        assert numbers(mapped[:]) == [2, 3]


def test_the_length_of_a_buffer_and_of_zeros() -> None:
    with lazy(pages(1, 3), length=N(PAGE), offset=N(PAGE)) as mapped:
        assert numbers(mapped[:]) == [2]
    with lazy(userfault.zero(N(5))) as mapped:
        assert mapped[:] == bytes(5)


def test_the_length_of_a_function() -> None:
    with lazy(userfault.function(functions.numbered, N(2 * PAGE))) as mapped:
        assert numbers(mapped[:]) == [1, 2]
    with lazy("pager_live.functions:numbered", length=N(PAGE)) as mapped:
        assert numbers(mapped[:]) == [1]


def test_a_part_of_a_snapshot(tmp_path: Path) -> None:
    path = store(tmp_path / "store", "image", pages(1, 4))
    with lazy(path, length=N(PAGE), offset=N(2 * PAGE), cache_size=N(1)) as mapped:
        assert numbers(mapped[:]) == [3]


def test_the_switches(image: Path) -> None:
    with lazy(image, writable=YES, fork=NO, policy=Policy(background=YES)) as mapped:
        mapped[0] = 7
    for name in ("writable", "fork", "grow_pool", "prepared", "user_mode_only"):
        with pytest.raises(UsageError, match=name):
            lazy(image, **{name: "no"})  # type: ignore[arg-type]


def test_prefetch_and_timeouts(image: Path) -> None:
    with lazy(image) as mapped:
        mapped.prefetch(N(0), N(PAGE))
        mapped.complete(F(60))
        assert mapped.wait(N(60))
        for wrong in ("1", 1j):
            with pytest.raises(UsageError, match="timeout"):
                mapped.wait(wrong)  # type: ignore[arg-type]
        with pytest.raises(UsageError, match="stop"):
            mapped.prefetch(0, 1.5)  # type: ignore[arg-type]


def test_a_pager(image: Path) -> None:
    with (
        userfault.Pager(cpu=N(0), poll_budget=F(0.5), in_flight=N(2)) as pager,
        lazy(image, pager=pager) as mapped,
    ):
        assert numbers(mapped[:PAGE]) == [1]
    with pytest.raises(UsageError, match="in_flight"):
        userfault.Pager(in_flight=1.5)  # type: ignore[arg-type]


@pytest.mark.parametrize("shape", [N(2), (N(2),), np.array([1, 2]), [N(-1)], np.array(2)], ids=str)
def test_shapes(shape: Any) -> None:
    assert lazy_array(bytes(8), shape, "<i4").size == 2


def test_below_lazy_an_address_is_no_buffer() -> None:
    """NumPy's integers export the bytes of the number, which must not be copied for a page."""
    need_features(Feature.THREAD_ID)
    process = LiveKernel().process()
    mapping = process.map(memory("anon"), N(PAGE))
    page = np.frombuffer(pages(9, 1), "u1")
    with process.userfaultfd(Feature.THREAD_ID) as uffd, Pinned(page) as pinned:
        uffd.register(N(mapping.address), N(mapping.length), Mode.MISSING)
        uffd.copy(N(mapping.address), N(pinned.address), N(PAGE))
        uffd.unregister(mapping.address, mapping.length)
    assert numbers(ctypes.string_at(mapping.address, PAGE)) == [9]
    mapping.close()
