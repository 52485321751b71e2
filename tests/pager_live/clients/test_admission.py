"""What a client hands over is looked at: nothing of it may make the loop wait, or end it."""

from __future__ import annotations

import contextlib
import fcntl
import os
import tempfile
from collections.abc import Iterator

import pytest

import userfault
from helpers.pages import PAGE
from userfault import Policy
from userfault.linux.pidfd import close_all
from userfault.linux.uffd import LiveUserfaultfd
from userfault.pager.drivers.clients.admission import check_descriptors
from userfault.pager.drivers.record.records import Descriptors
from userfault.pager.drivers.wire import messages
from userfault.source.spec import Spec, StoreSpec

STORED = StoreSpec(8 * PAGE, b"/nowhere", "one", b"")


def memory(size: int, seals: int = 0) -> int:
    fd = os.memfd_create("memory", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.ftruncate(fd, size)
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, seals)
    return fd


def attach(source: Spec) -> messages.Attach:
    return messages.Attach(
        number=1,
        start=1 << 32,
        pages=8,
        page_size=PAGE,
        shared=False,
        zeropage=True,
        exists_is_ambiguous=False,
        has_poison=True,
        prepared=False,
        has_source=source is STORED,
        has_memory=False,
        source=source,
        policy=Policy(),
    )


@contextlib.contextmanager
def handed_over() -> Iterator[Descriptors]:
    """What an honest client sends."""
    with LiveUserfaultfd.open() as uffd:
        event = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        line = os.pipe2(os.O_CLOEXEC)
        held = Descriptors(uffd.fileno(), memory(8, fcntl.F_SEAL_SHRINK), event, *line)
        yield held
        close_all([held.states, event, *line, held.source, held.signals])


def refusal(source: Spec, held: Descriptors) -> str:
    try:
        check_descriptors(attach(source), held)
    except ValueError as error:
        return str(error)
    return ""


def test_what_an_honest_client_sends_is_taken() -> None:
    with handed_over() as held:
        held.signals = memory(0)
        assert not refusal(userfault.zero(8 * PAGE), held)
        held.source = memory(PAGE, fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SHRINK)
        assert not refusal(STORED, held)


def test_a_log_of_signals_has_to_be_memory() -> None:
    with handed_over() as held:
        held.signals, writer = os.pipe2(os.O_CLOEXEC)
        assert "a log of signals" in refusal(userfault.zero(8 * PAGE), held)
        os.close(writer)


@pytest.mark.parametrize("seals", [0, fcntl.F_SEAL_SHRINK, fcntl.F_SEAL_WRITE])
def test_a_table_of_a_snapshot_has_to_be_sealed(seals: int) -> None:
    """A process that reads of it what has been cut off dies by SIGBUS."""
    with handed_over() as held:
        held.source = memory(PAGE, seals)
        assert "may change" in refusal(STORED, held)


def test_a_file_is_no_table() -> None:
    with handed_over() as held, tempfile.TemporaryFile() as file:
        file.truncate(PAGE)
        held.source = os.dup(file.fileno())
        assert "may change" in refusal(STORED, held)


def test_states_that_may_shrink_are_refused() -> None:
    with handed_over() as held, tempfile.TemporaryFile() as file:
        os.close(held.states)
        held.states = memory(8)
        assert "states" in refusal(userfault.zero(8 * PAGE), held)
        os.close(held.states)
        file.truncate(8)
        held.states = os.dup(file.fileno())
        assert "states" in refusal(userfault.zero(8 * PAGE), held)
