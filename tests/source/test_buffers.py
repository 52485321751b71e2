"""A buffer or an array is the bytes of its items in the order of its indices, or is refused."""

from __future__ import annotations

import array
import ctypes
import mmap
from typing import Any

import numpy as np
import pytest

from source.taken import taken
from userfault import SourceTypeError, UsageError
from userfault.source.spec import resolve

MIXED = np.dtype([("O", "<i4"), ("when", "M8[s]"), ("pair", ">f8", (2,)), ("text", "U3")])

ARRAYS: dict[str, np.ndarray[Any, Any]] = {
    "float": np.arange(2000, dtype="f4"),
    "other byte order": np.arange(2000, dtype=">f4"),
    "half": np.arange(2000, dtype="f2"),
    "long double": np.ones(300, "g"),
    "complex": np.arange(2000, dtype="c8"),
    "bool": np.ones(5000, bool),
    "date": np.arange(2000).astype("M8[s]"),
    "date of no unit": np.zeros(20, "M8"),
    "span": np.arange(2000).astype("m8[ns]"),
    "one date": np.array(3, "M8[D]"),
    "structure": np.zeros(900, MIXED),
    "structure with gaps": np.zeros(9, np.dtype([("a", "i1"), ("b", "f8")], align=True)),
    "record": np.rec.array(np.ones(9, [("a", "<i4")])),
    "text": np.array(["ab", "c"] * 600),
    "bytes": np.array([b"abcde"] * 900),
    "void": np.zeros(7, "V3"),
    "two dimensions": np.arange(2500.0).reshape(50, 50),
    "no dimension": np.array(3.0),
    "a number": np.array(3),
    "read-only": np.broadcast_to(np.arange(10), (1, 10)),
    "a row": np.arange(100).reshape(10, 10)[3],
}


@pytest.mark.parametrize("name", ARRAYS)
def test_an_array_of_any_type_is_its_bytes(name: str) -> None:
    assert taken(ARRAYS[name]) == ARRAYS[name].tobytes()


@pytest.mark.parametrize(
    ("name", "held", "why"),
    [
        ("fortran order", np.ones((5, 5), order="F"), "order of its indices"),
        ("every second", np.arange(40)[::2], "order of its indices"),
        ("dates, every second", np.arange(40).astype("M8[s]")[::2], "order of its indices"),
        ("backwards", memoryview(b"abc")[::-1], "order of its indices"),
        ("objects", np.array([None] * 3), "references"),
        ("objects in a structure", np.zeros(3, [("a", "O")]), "references"),
        ("objects of ctypes", (ctypes.py_object * 3)(), "references"),
        ("masked", np.ma.masked_array([1, 2], [True, False]), "mask"),
    ],
)
def test_memory_that_is_not_its_bytes_is_refused(name: str, held: Any, why: str) -> None:
    with pytest.raises(SourceTypeError, match=why) as caught:
        resolve(held)
    assert caught.value.cure, name


@pytest.mark.skipif(not hasattr(np.dtypes, "StringDType"), reason="NumPy 1 has no such type")
def test_texts_of_any_length_are_refused() -> None:
    with pytest.raises(SourceTypeError, match="references"):
        resolve(np.array(["a", "bc"], dtype=np.dtypes.StringDType()))


class Fields(ctypes.Structure):
    """A field that is called as the letter for objects."""

    _fields_ = (("O", ctypes.c_int), ("b", ctypes.c_double))


def test_other_buffers_are_their_bytes() -> None:
    with mmap.mmap(-1, 5000) as mapped:
        mapped[:3] = b"abc"
        assert taken(mapped) == b"abc" + bytes(4997)
    assert taken(array.array("d", [1.5, 2.5])) == np.array([1.5, 2.5]).tobytes()
    assert taken(bytearray(b"xyz")) == taken(memoryview(b"xyz")) == b"xyz"
    assert taken(Fields(7, 1.5)) == bytes(Fields(7, 1.5))
    swapped: Any = np.arange(6, dtype=">i2").reshape(2, 3)
    assert taken(memoryview(swapped)) == swapped.tobytes()


@pytest.mark.parametrize("empty", [b"", np.zeros((0, 4)), np.zeros(0, "M8[s]"), np.zeros(3, "V0")])
def test_an_empty_buffer_is_refused(empty: Any) -> None:
    with pytest.raises(UsageError, match="no bytes"):
        resolve(empty)


def test_a_buffer_that_is_gone_is_refused() -> None:
    view = memoryview(b"abc")
    view.release()
    with pytest.raises(SourceTypeError, match="released"):
        resolve(view)


@pytest.mark.parametrize("other", [None, 1.5, {}, object()])
def test_what_has_no_bytes_is_refused_with_what_would_do(other: object) -> None:
    with pytest.raises(SourceTypeError, match="no buffer") as caught:
        resolve(other)
    assert "path" in caught.value.cure
