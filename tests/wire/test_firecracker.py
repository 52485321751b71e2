"""Firecracker's message: what each form means, and that nothing else means anything."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from userfault.wire.errors import BadMessageError
from userfault.wire.firecracker import Handshake
from userfault.wire.regions import HIGHEST, Geometry, Region

# The example of two regions of a guest of 4 GiB, as Firecracker's description has it.
LOW: dict[str, Any] = {
    "base_host_virt_addr": 139872037535744,
    "size": 3489660928,
    "offset": 0,
    "page_size": 4096,
    "page_size_kib": 4096,
}
HIGH: dict[str, Any] = {
    "base_host_virt_addr": 139868816310272,
    "size": 805306368,
    "offset": 3489660928,
    "page_size": 4096,
    "page_size_kib": 4096,
}


def heard(data: bytes, *, pieces: int = 0, most: int = 1 << 16) -> Geometry | None:
    """What a handshake makes of it, in pieces of so many bytes."""
    handshake = Handshake(regions=64, most=most)
    size = pieces or len(data) or 1
    found = None
    for at in range(0, len(data), size):
        found = handshake.feed(data[at : at + size])
    return found


def test_regions_are_told_by_address() -> None:
    found = heard(json.dumps([LOW, HIGH]).encode())
    assert found == Geometry(
        4096,
        (
            Region(HIGH["base_host_virt_addr"], HIGH["size"], HIGH["offset"]),
            Region(LOW["base_host_virt_addr"], LOW["size"], 0),
        ),
        LOW["size"] + HIGH["size"],
    )


@pytest.mark.parametrize(
    ("sizes", "size"),
    [
        ({}, 4096),
        ({"page_size_kib": 4096}, 4096),
        ({"page_size_kib": 2097152}, 2097152),
        ({"page_size_kib": 4}, 4096),
        ({"page_size_kib": 2048}, 2097152),
        ({"page_size_kib": 1048576}, 1 << 30),
        ({"page_size": 2097152, "page_size_kib": 2097152}, 2097152),
        ({"page_size": 2097152, "page_size_kib": 2048}, 2097152),
        ({"page_size": 2097152}, 2097152),
    ],
)
def test_the_page_size_has_two_names_and_two_units(sizes: dict[str, int], size: int) -> None:
    region = {"base_host_virt_addr": 1 << 40, "size": 1 << 30, "offset": 0, **sizes}
    found = heard(json.dumps([region]).encode())
    assert found is not None
    assert found.page_size == size


def test_what_is_not_known_is_passed_over() -> None:
    region = {**LOW, "dirty": {"log": [1, 2, "]"]}, "gpa_start": 0, "quote": '\\"]'}
    assert heard(json.dumps([region]).encode()) == heard(json.dumps([LOW]).encode())


def test_a_page_size_of_this_restore_may_differ_from_the_one_before() -> None:
    """The same image at 4 KiB and at 2 MiB: nothing is kept from one message to the next."""
    large = {**LOW, "size": 2 << 20, "page_size": 2 << 20, "page_size_kib": 2 << 20}
    large["base_host_virt_addr"] = 1 << 40
    small = {**large, "page_size": 4096, "page_size_kib": 4096}
    found = [heard(json.dumps([region]).encode()) for region in (large, small)]
    assert [each and each.page_size for each in found] == [2 << 20, 4096]


@settings(deadline=None)
@given(st.integers(1, 400))
def test_pieces_mean_what_the_whole_means(size: int) -> None:
    data = json.dumps([LOW, HIGH]).encode()
    assert heard(data, pieces=size) == heard(data)


def judged(data: bytes, size: int) -> object:
    """What is made of it: regions, "more" (it is not whole), or "bad"."""
    try:
        return heard(data, pieces=size, most=4096) or "more"
    except BadMessageError as error:
        return "bad" if error.what and error.cause else "refused without a cause"


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    """A message with a few errors in it."""
    regions: list[Any] = [dict(LOW), dict(HIGH)][: draw(st.integers(0, 2))]
    for region in regions:
        for name in draw(st.sets(st.sampled_from(sorted(LOW)), max_size=2)):
            value: Any = draw(
                st.one_of(
                    st.integers(-(1 << 70), 1 << 70),
                    st.sampled_from([0, 1, 4095, 4096, 1 << 62, 1 << 63, (1 << 64) - 4096]),
                    st.none(),
                    st.text(max_size=4),
                    st.floats(),
                    st.lists(st.integers(), max_size=2),
                )
            )
            region[name] = value
    data = bytearray(json.dumps(regions).encode())
    for _ in range(draw(st.integers(0, 3))):
        at = draw(st.integers(0, max(len(data) - 1, 0)))
        data[at : at + draw(st.integers(0, 3))] = draw(st.binary(max_size=3))
    return bytes(data)


@settings(max_examples=400, deadline=None)
@given(mutated(), st.integers(1, 64))
def test_whatever_comes_is_regions_or_a_refusal(data: bytes, size: int) -> None:
    found = judged(data, size)
    if isinstance(found, Geometry):
        size_of = found.page_size
        behind = 0
        for region in found.regions:
            assert behind <= region.address < region.address + region.size <= HIGHEST
            assert not any(each % size_of for each in (region.address, region.size, region.offset))
            behind = region.address + region.size
    whole = judged(data, len(data) or 1)
    # A text that ends before its bytes do may be taken before the rest of them has come.
    assert found == whole or isinstance(found, Geometry) or "bad" in (found, whole)


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=200), st.integers(1, 64))
def test_rubbish_is_refused(data: bytes, size: int) -> None:
    assert judged(data, size) in ("more", "bad")


def test_more_than_is_allowed_is_refused_before_it_has_come() -> None:
    handshake = Handshake(regions=1, most=100)
    assert handshake.feed(b"[" + b" " * 99) is None
    with pytest.raises(BadMessageError, match="more than 100 bytes"):
        handshake.feed(b" ")
