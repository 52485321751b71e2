"""Arrays over lazy memory have the shape, the type and the bytes that were asked for, or say why
not."""

from __future__ import annotations

import gc
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import userfault
from helpers.pages import PAGE
from helpers.stores import store
from pager_live import functions
from pager_live.test_restore import MEMORIES, restored
from userfault import lazy_array

NUMBERS = np.arange(6 * PAGE, dtype="<i4")


def test_an_array_over_bytes_has_their_values() -> None:
    array = lazy_array(NUMBERS.tobytes(), (6, PAGE), "<i4")
    assert np.array_equal(array, NUMBERS.reshape(6, PAGE))
    assert array.dtype == np.dtype("<i4")
    assert not array.flags.writeable


@pytest.mark.parametrize(
    ("shape", "expected"),
    [(None, (6 * PAGE,)), (6 * PAGE, (6 * PAGE,)), (-1, (6 * PAGE,)), ((2, -1, 3), (2, PAGE, 3))],
)
def test_a_size_that_is_left_out_is_the_sources(
    shape: int | tuple[int, ...] | None, expected: tuple[int, ...]
) -> None:
    assert lazy_array(NUMBERS.tobytes(), shape, "<i4").shape == expected


def test_fortran_order_reads_the_first_index_fastest() -> None:
    array = lazy_array(NUMBERS.tobytes(), (PAGE, 6), "<i4", order="F")
    assert np.array_equal(array, NUMBERS.reshape((PAGE, 6), order="F"))


def test_writes_stay_in_a_writable_array(tmp_path: Path) -> None:
    path = tmp_path / "numbers"
    path.write_bytes(NUMBERS.tobytes())
    array = lazy_array(path, dtype="<i4", writable=True)
    array[:] = 7
    assert array.sum() == 7 * len(NUMBERS)
    assert path.read_bytes() == NUMBERS.tobytes()


def test_a_function_delivers_as_many_bytes_as_the_array_has() -> None:
    array = lazy_array(functions.numbered, (4, 512), "<u8")
    assert array[:, 0].tolist() == [1, 2, 3, 4]


@pytest.mark.parametrize("kind", MEMORIES)
def test_an_array_over_a_snapshot_shows_what_was_packed(tmp_path: Path, kind: str) -> None:
    name = store(tmp_path / "store", "one", NUMBERS.tobytes())
    with restored(name, kind):  # the pool is locked, and the array's memory is made within
        array = lazy_array(name, (-1, 8), "<i4", memory=kind, grow_pool=kind.startswith("huge"))
        assert np.array_equal(array.ravel(), NUMBERS)
        del array
        gc.collect()


def test_an_image_of_whole_pages_may_be_longer_than_the_array() -> None:
    array = lazy_array(NUMBERS.tobytes(), 6 * PAGE - 5, "<i4")
    assert np.array_equal(array, NUMBERS[:-5])


def test_the_memory_goes_with_the_last_array() -> None:
    array = lazy_array(NUMBERS.tobytes(), dtype="<i4")
    view = array[10:20]
    memory: Any = array.base
    assert isinstance(memory, userfault.LazyMemory)
    pager = memory._parts.pager
    del array, memory
    gc.collect()
    assert pager.alive
    assert view.tolist() == list(range(10, 20))
    del view
    gc.collect()
    assert not pager.alive


@pytest.mark.parametrize(
    ("shape", "dtype", "why"),
    [
        ((5, PAGE), "<i4", "it takes 81920 bytes"),
        ((7, PAGE), "<i4", "it takes 114688 bytes"),
        ((-1, 5), "<i4", "no multiple of 20 bytes"),
        ((-1, -1), "<i4", "one number at most may be -1"),
        ((0, 4), "<i4", "at least one element"),
        ("four", "<i4", "no whole number"),
        (None, "O", "references to objects"),
        (None, "no such", "knows no such type"),
        (None, "V0", "no bytes"),
    ],
)
def test_what_does_not_fit_is_told(shape: object, dtype: str, why: str) -> None:
    with pytest.raises(userfault.UserfaultError, match=why):
        lazy_array(NUMBERS.tobytes(), shape, dtype)  # type: ignore[arg-type]


def test_without_numpy_the_cure_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "numpy", None)
    with pytest.raises(userfault.Unavailable, match=r"pip install .userfault\[numpy\]"):
        lazy_array(b"12345678", dtype="u1")


@pytest.mark.parametrize(
    "kind",
    [">f4", "c8", "M8[s]", "m8[ns]", "U3", "g", [("O", "<i4"), ("when", "M8[D]")]],
    ids=str,
)
def test_arrays_of_any_type_of_fixed_size_are_source_and_view(kind: Any) -> None:
    values = np.arange(60, dtype="u1").repeat(100).view("u1")[: 50 * np.dtype(kind).itemsize]
    values = values.view(kind)
    array = lazy_array(values, -1, kind)
    assert array.dtype == np.dtype(kind)
    assert array.tobytes() == values.tobytes()


@pytest.mark.parametrize("kind", ["O", "f9", "a,b;", "S0", {"names": ["a"]}, 5], ids=repr)
def test_a_type_that_cannot_be_viewed_is_refused(kind: Any) -> None:
    with pytest.raises(userfault.SourceTypeError, match="dtype"):
        lazy_array(bytes(8), dtype=kind)


def test_an_order_that_is_none_is_refused() -> None:
    with pytest.raises(userfault.UsageError, match="order"):
        lazy_array(bytes(8), order="K")  # type: ignore[arg-type]


def test_a_function_named_by_text_delivers_as_many_bytes_as_the_array_has() -> None:
    assert lazy_array("pager_live.functions:numbered", (1, 512), "<u8")[0, 0] == 1
