"""The journal: what a reader finds there, wherever its writer was killed."""

from __future__ import annotations

import errno
import fcntl
import os
import resource
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from helpers import child
from helpers.pages import PAGE
from userfault.kernel.errors import PagerError
from userfault.kernel.modes import Mode
from userfault.linux import libc
from userfault.linux.uffd import LiveUserfaultfd
from userfault.pager.core.actions import COPY
from userfault.pager.drivers.record.journal import BATCH, MESSAGE, Journal, Word
from userfault.pager.drivers.record.status import Shown, Status
from userfault.uapi import mman
from userfault.uapi.userfaultfd import UFFDIO_COPY


@pytest.fixture
def journal() -> Iterator[Journal]:
    made = Journal.create()
    yield made
    made.close()


def message(number: int) -> bytes:
    return (number + 1).to_bytes(4, "big").rjust(MESSAGE, b"\x12")


@given(st.lists(st.integers(0, BATCH), min_size=1, max_size=60))
def test_messages_read_and_not_done_are_found_and_no_others(batches: list[int]) -> None:
    journal = Journal.create()
    number = 0
    for count in batches:
        at, view = journal.batch(context=7)
        room = len(view) // MESSAGE
        read = [message(number + each) for each in range(min(count, room))]
        view[: len(read) * MESSAGE] = b"".join(read)
        del at, view
        reader = Journal(os.dup(journal.fd))
        found = [bytes(each) for each in reader.unfinished()]
        reader.close()
        assert found == read
        journal.batch_done(len(read) * MESSAGE)
        number += len(read)
        assert journal.head == number
    journal.close()


@given(st.lists(st.binary(max_size=5000), min_size=1, max_size=30))
def test_the_last_record_committed_is_the_one_read(records: list[bytes]) -> None:
    journal = Journal.create()
    for record in records:
        before = journal.record()
        reader = Journal(os.dup(journal.fd))
        journal.commit(record)
        assert journal.record() == reader.record() == record
        assert before is not None
        reader.close()
    journal.close()


def test_whoever_was_forked_long_ago_reads_on_where_the_last_one_stopped(journal: Journal) -> None:
    spare = Journal(os.dup(journal.fd))
    _, view = journal.batch(context=1)
    view[:MESSAGE] = message(0)
    journal.batch_done(MESSAGE)
    _, view = journal.batch(context=1)
    view[:MESSAGE] = message(1)
    assert [bytes(each) for each in spare.unfinished()] == [message(1)]
    spare.take_up()
    assert spare.head == 1
    spare.close()


def test_the_kernel_writes_a_fills_result_straight_into_the_journal(journal: Journal) -> None:
    """The thread that it wakes sees it there, whether the ioctl has returned or not."""
    with LiveUserfaultfd.open() as uffd:
        anonymous = mman.MAP_PRIVATE | mman.MAP_ANONYMOUS
        memory = libc.mmap(0, 2 * PAGE, mman.PROT_READ, anonymous, -1, 0)
        source = bytes(2 * PAGE)
        uffd.register(memory, 2 * PAGE, Mode.MISSING)
        with libc.Pinned(source) as pinned:
            journal.copying(3, COPY, 5, 2, memory, pinned.address, 2 * PAGE)
            assert not journal.last_fill().done
            # The kernel has no use for what lies behind the argument, and leaves it alone.
            assert len(journal.copy_argument) > 1024
            fcntl.ioctl(uffd.fileno(), UFFDIO_COPY, journal.copy_argument)
        fill = journal.last_fill()
        assert (fill.context, fill.kind, fill.page, fill.count) == (3, COPY, 5, 2)
        assert fill.done == 2 * PAGE
    libc.munmap(memory, 2 * PAGE)


def without_room() -> list[str]:
    """Files may not grow beyond what the journal has."""
    journal = Journal.create()
    limit = os.fstat(journal.fd).st_size + 3000
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    journal.commit(b"fits")
    told = []
    try:
        journal.commit(bytes(10_000))
    except PagerError as error:
        told = [error.cause, error.cure]
    assert journal.record() == b"fits"
    return told


def test_a_journal_without_room_says_so_and_keeps_the_last_record() -> None:
    cause, cure = child.run("pager_live.record.test_journal:without_room")
    assert cause == os.strerror(errno.EFBIG)
    assert "ulimit -f" in cure


def test_a_family_to_come_serves_from_one_store_on(journal: Journal) -> None:
    coming = Journal(os.dup(journal.fd), coming=True)
    journal.words[Word.TAKEOVERS] = 5
    coming.inherit()
    assert (journal.serves, coming.serves) == (True, False)
    coming.serve()
    assert (journal.serves, coming.serves) == (False, True)
    assert coming.words[Word.TAKEOVERS] == 5
    coming.close()


def test_the_client_is_shown_the_family_that_serves(journal: Journal) -> None:
    shown, fd = Status.create()
    coming = Journal(os.dup(journal.fd), coming=True)
    for each in (journal, coming):
        each.words[Word.STATUS_FD] = fd
    journal.words[Word.TAKEOVERS] = 3
    journal.appoint(Word.WORKER, 41, 7)
    coming.appoint(Word.WORKER, 42, 7)
    assert (shown.words[Shown.WORKER], shown.words[Shown.TAKEOVERS]) == (41, 3)
    coming.serve()
    assert (shown.words[Shown.WORKER], shown.words[Shown.TAKEOVERS]) == (42, 0)
    coming.close()
    with pytest.raises(OSError, match=os.strerror(errno.EPERM)):
        os.ftruncate(fd, 0)  # the family would die of it
    os.close(fd)
    shown.close()


def test_events_applied_of_one_batch_are_not_counted_for_the_next(journal: Journal) -> None:
    """A record made before the next batch is read must not hide the events of that batch."""
    _, view = journal.batch(context=1)
    view[: 2 * MESSAGE] = message(0) + message(1)
    journal.applied = 2
    journal.batch_done(2 * MESSAGE)
    assert journal.applied == 0


_STEPS = st.lists(
    st.tuples(st.sampled_from(["commit", "append"]), st.binary(max_size=40_000)), max_size=12
)


@given(_STEPS)
def test_what_was_added_is_read_behind_the_whole(steps: list[tuple[str, bytes]]) -> None:
    """In turn; and another process finds the same."""
    journal = Journal.create()
    reader = Journal(os.dup(journal.fd))
    held: list[bytes] = []
    for what, data in steps:
        if what == "commit":
            journal.commit(data)
            held = [data]
        elif journal.append(data):
            assert held
            held.append(data)
        assert journal.parts() == reader.parts() == held
        assert journal.record() == (held[0] if held else b"")
    reader.close()
    journal.close()


def test_a_record_to_which_much_was_added_is_to_be_written_anew(journal: Journal) -> None:
    journal.commit(bytes(1000))
    added = 0
    while journal.append(bytes(1000)):
        added += 1
    assert 50 < added < 100
    journal.commit(bytes(1000))
    assert journal.append(b"again")
