"""What was recorded is read again; what is no trace is told from one, whatever is in it."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from userfault.pager.core import trace
from userfault.pager.core.actions import KINDS
from userfault.pager.core.trace import Header, Record, TraceError

HEADER = Header(page_size=4096, pages=100, memory="anon", source="file", begun_ns=1000)
RECORDS = st.builds(
    Record,
    time_ns=st.integers(0, 1 << 50),
    what=st.just(trace.FILLED),
    detail=st.sampled_from([kind | far for kind in range(len(KINDS)) for far in (0, trace.DEMAND)]),
    page=st.integers(0, 49),
    extent=st.integers(0, 50),
)


def written(header: Header, records: list[Record]) -> bytes:
    lines = [trace.packed(header.begun_ns + each[0], *each[1:]) for each in records]
    return trace.begin(header) + b"".join(lines)


@given(st.lists(RECORDS))
def test_what_was_written_is_read(records: list[Record]) -> None:
    found = trace.decode(written(HEADER, records))
    assert found.header == HEADER
    assert found.records == records


@given(st.lists(RECORDS, min_size=1), st.integers(1, trace.RECORD.size - 1))
def test_half_a_record_at_the_end_is_none(records: list[Record], less: int) -> None:
    assert trace.decode(written(HEADER, records)[:-less]).records == records[:-1]


@given(st.binary(max_size=400))
def test_bytes_of_somebody_else_are_no_trace(data: bytes) -> None:
    with pytest.raises(TraceError, match="no trace"):
        trace.decode(data)


@given(st.binary(max_size=200))
def test_whatever_follows_the_header_is_read_or_refused(data: bytes) -> None:
    with contextlib.suppress(TraceError):
        for record in trace.decode(trace.begin(HEADER) + data).records:
            assert record.what >= trace.RESUMED or 0 <= record.page <= 100


def test_a_record_about_pages_that_are_not_there_is_named() -> None:
    data = trace.begin(HEADER) + trace.packed(1001, trace.FAULT, 0, 100, 0)
    with pytest.raises(TraceError, match="record 0 is about page 100"):
        trace.decode(data)


@pytest.mark.parametrize(
    "header",
    [
        Header(page_size=4095, pages=1),
        Header(page_size=0, pages=1),
        Header(page_size=4096, pages=0),
        Header(page_size=4096, pages=1 << 32),
        Header(page_size=4096, pages=1, window_pages=0),
    ],
)
def test_a_memory_that_cannot_be_is_refused(header: Header) -> None:
    with pytest.raises(TraceError, match="is no trace"):
        trace.decode(trace.begin(header))


def test_a_trace_of_another_release_is_named_so() -> None:
    data = bytearray(trace.begin(HEADER))
    data[len(trace.MAGIC) - 1] = 9
    with pytest.raises(TraceError, match="version"):
        trace.decode(bytes(data))


def test_only_single_pages_without_background_tell_every_touch() -> None:
    assert Header(page_size=4096, pages=1).touches
    assert not Header(page_size=4096, pages=1, window_pages=2).touches
    assert not Header(page_size=4096, pages=1, background=True).touches
