"""A fuzzer for the journal's records.

Only the pager writes to its journal; but a record half written, by a bug or a failing machine, must
not be served from.  The invariant:

* what was committed is read again as it was, whatever is in it;
* any other bytes, and any place and length that the word of the record can have, are either a
  record, which encodes to the same meaning, or a PagerError that says so: no other exception;
* reading takes no more memory than the journal has.

USERFAULT_EXAMPLES=N runs N examples of each property.
"""

from __future__ import annotations

import os
import tracemalloc
from collections.abc import Iterator

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import userfault
from helpers.pages import PAGE
from userfault import Policy
from userfault.kernel.errors import PagerError
from userfault.pager.core.plan import Counters
from userfault.pager.core.recorded import ContextRecord
from userfault.pager.core.segment import Segment
from userfault.pager.drivers.record import records
from userfault.pager.drivers.record.journal import Journal, Word
from userfault.pager.drivers.record.records import (
    ClientRecord,
    Descriptors,
    FamilyRecord,
    Kept,
    ServedRecord,
)
from userfault.pager.drivers.wire import messages

EXAMPLES = int(os.environ.get("USERFAULT_EXAMPLES", "0"))

fuzzing = settings(
    max_examples=EXAMPLES or 100,
    deadline=None,
    derandomize=not EXAMPLES,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


@pytest.fixture
def journal() -> Iterator[Journal]:
    made = Journal.create()
    yield made
    made.close()


numbers = st.integers(0, (1 << 63) - 1)
texts = st.text(max_size=20)
attaches = st.builds(
    messages.Attach,
    **dict.fromkeys(("number", "start", "pages", "page_size"), numbers),
    source=st.builds(userfault.zero, st.integers(1, 1 << 40)),
    policy=st.just(Policy()),
)
contexts = st.builds(
    Kept,
    fd=st.integers(-1, 1 << 20),
    core=st.builds(
        ContextRecord,
        number=numbers,
        states=numbers,
        segments=st.lists(st.builds(Segment, numbers, numbers, numbers), max_size=4).map(tuple),
    ),
    counters=st.builds(Counters),
)
mappings = st.builds(
    ServedRecord,
    attach=attaches,
    fds=st.builds(Descriptors, *(numbers for _ in range(5))),
    contexts=st.lists(contexts, max_size=3),
    failures=st.lists(st.builds(messages.Failure, numbers, texts, texts), max_size=3),
    failed=numbers,
    lost=texts,
)


def committed(journal: Journal, served: list[ServedRecord]) -> FamilyRecord:
    raw = [msgspec.Raw(records.encode(each)) for each in served]
    clients = [ClientRecord(1, 7, 8, "one", 3, raw[:1]), ClientRecord(2, 9, 10, served=raw[1:])]
    encoded = [msgspec.Raw(records.encode(each)) for each in clients]
    family = FamilyRecord(messages.Hello(), 5, 1, len(raw), 2, [4, 5], encoded)
    journal.commit(records.encode(family))
    return family


@fuzzing
@given(served=st.lists(mappings, max_size=4))
def test_what_was_committed_is_read(journal: Journal, served: list[ServedRecord]) -> None:
    family = committed(journal, served)
    found, people = records.read(journal)
    assert (found.batch, found.applied, found.numbers) == (5, 1, family.numbers)
    assert (found.people, found.kept) == (2, [4, 5])
    assert [person.client.number for person in people] == [1, 2]
    assert [each for person in people for each in person.mappings] == served


@fuzzing
@given(
    served=st.lists(mappings, min_size=1, max_size=2),
    at=st.integers(0, 1 << 16),
    new=st.binary(max_size=12),
    cut=st.integers(0, 40),
)
def test_a_damaged_record_is_a_record_or_an_error_that_says_so(
    journal: Journal, served: list[ServedRecord], at: int, new: bytes, cut: int
) -> None:
    committed(journal, served)
    data = journal.record()
    place = at % (len(data) + 1)
    judge(journal, data[:place] + new + data[place + cut :])


@fuzzing
@given(data=st.binary(max_size=300))
def test_any_bytes_are_a_record_or_an_error_that_says_so(journal: Journal, data: bytes) -> None:
    judge(journal, data)


def judge(journal: Journal, data: bytes) -> None:
    journal.commit(data)
    try:
        family, people = records.read(journal)
    except PagerError as error:
        why = str(error)
    else:
        why = ""
    if why:
        assert why.startswith("the pager's journal cannot be read: ")
        return
    clients = []
    for person in people:
        served = [msgspec.Raw(records.encode(each)) for each in person.mappings]
        client = msgspec.structs.replace(person.client, served=served)
        clients.append(msgspec.Raw(records.encode(client)))
    journal.commit(records.encode(msgspec.structs.replace(family, clients=clients)))
    assert [person.mappings for person in records.read(journal)[1]] == [
        person.mappings for person in people
    ]


@fuzzing
@given(place=st.integers(0, (1 << 32) - 1), length=st.integers(0, (1 << 32) - 1))
def test_any_place_and_length_is_read_within_bounds(
    journal: Journal, place: int, length: int
) -> None:
    journal.words[Word.RECORD] = 0
    committed(journal, [])
    journal.words[Word.RECORD] = place << 32 | length
    tracemalloc.start()
    try:
        with pytest.raises(PagerError, match="journal"):
            records.read(journal)
        assert tracemalloc.get_traced_memory()[1] < os.fstat(journal.fd).st_size + 256 * PAGE
    finally:
        tracemalloc.stop()


@fuzzing
@given(
    changes=st.lists(
        st.tuples(st.integers(1, 4), st.booleans(), st.lists(mappings, max_size=1)), max_size=8
    )
)
def test_changes_are_read_as_if_all_had_been_written(
    journal: Journal, changes: list[tuple[int, bool, list[ServedRecord]]]
) -> None:
    """Whoever came, went, and came to have other mappings."""
    committed(journal, [])
    held = {person.client.number: person.mappings for person in records.read(journal)[1]}
    for step, (number, gone, served) in enumerate(changes):
        raw = [msgspec.Raw(records.encode(each)) for each in served]
        client = msgspec.Raw(records.encode(ClientRecord(number, 3, 4, served=raw)))
        change = records.Change(
            batch=step,
            applied=1,
            numbers=2,
            people=9,
            clients=[] if gone else [client],
            gone=[number] if gone else [],
        )
        assert journal.append(records.encode(change))
        held.pop(number, None)
        if not gone:
            held[number] = served
        family, people = records.read(journal)
        assert {each.client.number: each.mappings for each in people} == held
        assert (family.batch, family.applied, family.people) == (step, 1, 9)
        assert len(family.clients) == len(held)
