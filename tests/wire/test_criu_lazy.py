"""What a lazy restore of CRIU says, whole and in pieces, and what none says."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from userfault.wire.criu.lazy import MOST, Finished, Task, Zombie, first
from userfault.wire.errors import BadMessageError


def number(value: int) -> bytes:
    return struct.pack("=i", value)


MESSAGES = [
    (number(7) + b"\0", Task(7)),
    (number(1 << 22) + b"\0", Task(1 << 22)),
    (number(-7), Zombie(7)),
    (b"FTSR" if struct.pack("=H", 1) == b"\1\0" else b"RSTF", Finished()),
]


@pytest.mark.parametrize(("data", "meant"), MESSAGES)
def test_a_message_is_understood_once_it_is_whole(
    data: bytes, meant: Task | Zombie | Finished
) -> None:
    for size in range(len(data)):
        assert first(data[:size]) is None
    assert first(data) == meant
    assert first((data + b"more")[:MOST]) == meant
    assert meant.size == len(data)


@pytest.mark.parametrize(
    "data",
    [number(0), number((1 << 22) + 1), number(-(1 << 31)), number((1 << 31) - 1), number(7) + b"1"],
)
def test_what_no_restore_says_is_refused(data: bytes) -> None:
    with pytest.raises(BadMessageError, match="no lazy restore of CRIU"):
        first(data)


@given(st.binary(max_size=MOST))
def test_anything_is_a_message_or_refused(data: bytes) -> None:
    try:
        found = first(data)
    except BadMessageError:
        return
    assert found is None or found.size <= len(data)
