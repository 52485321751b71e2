"""Layout: offsets and padding as a C compiler places them, and packing there and back."""

from __future__ import annotations

import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from userfault.uapi import kvm, pagemap, userfaultfd
from userfault.uapi.layout import S64, U8, U16, U32, U64, Layout, Reserved

LAYOUTS = [
    value
    for table in (userfaultfd, pagemap, kvm)
    for value in vars(table).values()
    if isinstance(value, Layout)
]
RANGES = {
    U8: (0, 2**8 - 1),
    U16: (0, 2**16 - 1),
    U32: (0, 2**32 - 1),
    U64: (0, 2**64 - 1),
    S64: (-(2**63), 2**63 - 1),
}


def test_members_go_where_their_alignment_allows() -> None:
    layout = Layout("mixed", ("a", U8), ("b", U32), ("c", U8), ("d", U16), ("e", U64), ("f", U8))

    assert [(f.name, f.offset, f.size) for f in layout.fields] == [
        ("a", 0, 1),
        ("b", 4, 4),
        ("c", 8, 1),
        ("d", 10, 2),
        ("e", 16, 8),
        ("f", 24, 1),
    ]
    assert (layout.size, layout.align) == (32, 8)
    assert layout.struct.size == layout.size


def test_packed_members_touch() -> None:
    layout = Layout("packed", ("a", U8), ("b", U64), ("c", U16), packed=True)

    assert [f.offset for f in layout.fields] == [0, 1, 9]
    assert (layout.size, layout.align) == (11, 1)


def test_nested_structs_are_flattened_with_their_padding() -> None:
    inner = Layout("inner", ("x", U64), ("y", U8))
    outer = Layout("outer", ("a", U8), ("in", inner), ("b", U8))

    assert outer.names == ("a", "in.x", "in.y", "b")
    assert [outer.offset(name) for name in outer.names] == [0, 8, 16, 24]
    assert outer.size == 32


def test_reserved_space_is_zero_and_takes_no_value() -> None:
    layout = Layout("reserving", ("a", U8), ("hole", Reserved(U64, 2)), ("b", U8))

    assert layout.names == ("a", "b")
    assert layout.offset("hole") == 8
    assert layout.struct.pack(1, 2) == b"\x01" + bytes(7 + 16) + b"\x02" + bytes(7)


def test_explicit_offsets_and_size() -> None:
    layout = Layout("union", ("kind", U8), ("value", U64, 8), size=32)

    assert layout.offset("value") == 8
    assert layout.struct.unpack(layout.struct.pack(7, 9)) == (7, 9)
    assert layout.struct.size == 32


def test_a_declaration_that_cannot_be_is_refused() -> None:
    with pytest.raises(ValueError, match="overlap"):
        Layout("bad", ("a", U64), ("b", U8, 4))
    with pytest.raises(ValueError, match="needs 8 bytes"):
        Layout("bad", ("a", U64), size=4)


def test_an_unknown_field_has_no_offset() -> None:
    with pytest.raises(KeyError):
        userfaultfd.uffdio_api.offset("nonsense")


@given(data=st.data(), layout=st.sampled_from(LAYOUTS))
def test_packing_round_trip(data: st.DataObject, layout: Layout) -> None:
    """Each value lands in its own bytes, everything else is zero, and it comes back."""
    scalars = [field for field in layout.fields if field.name in layout.names]
    values = tuple(data.draw(st.integers(*RANGES[field.code])) for field in scalars)
    packed = layout.struct.pack(*values)

    assert len(packed) == layout.size
    assert layout.struct.unpack(packed) == values
    rest = bytearray(packed)
    for field, value in zip(scalars, values, strict=True):
        place = slice(field.offset, field.offset + field.size)
        mask = (1 << 8 * field.size) - 1
        assert int.from_bytes(packed[place], sys.byteorder) == value & mask
        rest[place] = bytes(field.size)
    assert not any(rest)
