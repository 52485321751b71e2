"""The protocol's bytes: what one side packs the other unpacks, and nothing else is believed."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from helpers.pages import PAGE
from userfault.migrate.frames import (
    HEAD,
    MAGIC,
    MOST_RUNS,
    PIECE,
    VERSION,
    Hello,
    Kind,
    Offer,
    Refused,
    Welcome,
    head,
    pack,
    pack_runs,
    pages_head,
    read_head,
    unpack,
    unpack_pages,
    unpack_runs,
)
from userfault.wire.errors import BadMessageError

PAGES = 100_000
RUN = st.tuples(st.integers(0, PAGES - 1), st.integers(1, PAGES)).map(
    lambda run: (run[0], min(run[1], PAGES - run[0]))
)
TOKEN = bytes(range(32))


@given(st.lists(RUN, max_size=50))
def test_runs_come_as_they_were_packed(runs: list[tuple[int, int]]) -> None:
    frames = list(pack_runs(runs))
    assert [run for frame in frames for run in unpack_runs(frame, PAGES)] == runs


def test_many_runs_take_several_frames_none_longer_than_allowed() -> None:
    runs = [(at, 1) for at in range(0, 2 * MOST_RUNS + 2, 1)]
    frames = list(pack_runs(runs))
    assert len(frames) == 3
    for frame in frames:
        assert read_head(head(Kind.HAVE, len(frame))) == (Kind.HAVE, len(frame))
    assert [run for frame in frames for run in unpack_runs(frame, PAGES)] == runs


@given(st.integers(0, 255), st.integers(0, 2**32 - 1))
def test_a_length_is_believed_up_to_what_its_kind_may_have(kind: int, length: int) -> None:
    with contextlib.suppress(BadMessageError):
        found, taken = read_head(HEAD.pack(kind, length))
        assert (found, taken) == (kind, length)
        assert length <= 1 << 19


@given(st.binary(max_size=64))
def test_no_bytes_are_taken_for_what_they_are_not(data: bytes) -> None:
    for read in (
        lambda: unpack_runs(data, PAGES),
        lambda: unpack_pages(data, PAGES),
        lambda: unpack(data, Hello),
        lambda: unpack(data, Welcome),
        lambda: unpack(data, Refused),
    ):
        with contextlib.suppress(BadMessageError):
            read()


@pytest.mark.parametrize("run", [(0, 0), (PAGES, 1), (PAGES - 1, 2), (2**32 - 1, 2**32 - 1)])
def test_pages_beyond_the_memory_are_refused(run: tuple[int, int]) -> None:
    with pytest.raises(BadMessageError):
        unpack_runs(pages_head(*run), PAGES)


@pytest.mark.parametrize("size", [0, PAGE - 1, PAGE + 1])
def test_pages_have_the_bytes_of_as_many(size: int) -> None:
    assert bytes(unpack_pages(pages_head(7, 1) + b"x" * PAGE, PAGES)[2]) == b"x" * PAGE
    with pytest.raises(BadMessageError):
        unpack_pages(pages_head(7, 1) + b"x" * size, PAGES)


HELLO = {"magic": MAGIC, "version": VERSION, "token": TOKEN, "resumes": False}
OFFER = Offer((PAGE, 3 * PAGE), b"about")


def test_a_hello_comes_as_it_was_said() -> None:
    hello = Hello(**HELLO, offer=OFFER)  # type: ignore[arg-type]
    assert unpack(pack(hello), Hello) == hello


@pytest.mark.parametrize(
    "wrong",
    [
        {"magic": b"another"},
        {"version": VERSION + 1},
        {"token": b"short"},
        {"offer": Offer(())},
        {"offer": Offer((PAGE + 1,))},
        {"offer": Offer((0,))},
        {"offer": Offer((-PAGE,))},
        {"offer": Offer((1 << 45,))},
        {"offer": Offer((PAGE,) * 65)},
    ],
)
def test_a_hello_that_cannot_be_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(BadMessageError):
        unpack(pack(Hello(**{**HELLO, "offer": OFFER, **wrong})), Hello)  # type: ignore[arg-type]


def test_a_frame_of_pages_has_room_for_a_piece_and_no_more() -> None:
    size = len(pages_head(0, PIECE)) + PIECE * PAGE
    assert read_head(head(Kind.PAGES, size)) == (Kind.PAGES, size)
    with pytest.raises(BadMessageError):
        read_head(head(Kind.PAGES, size + 1))
