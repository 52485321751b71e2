"""The driver on its own, in moments that a live client reaches too rarely for a test."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator

import pytest

from helpers.pages import PAGE
from userfault import Policy, zero
from userfault.linux.lifeline import LifeLine
from userfault.linux.uffd import LiveUserfaultfd
from userfault.pager.drivers import messages
from userfault.pager.drivers.journal import Journal, Word
from userfault.pager.drivers.live import LiveDriver
from userfault.pager.drivers.records import Descriptors, FamilyRecord
from userfault.pager.drivers.served import Served
from userfault.uapi.userfaultfd import UFFD_EVENT_PAGEFAULT, uffd_msg_pagefault

START = 1 << 32
PAGES = 8


def context_of_a_dead_process() -> int:
    """A userfaultfd whose process has ended."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        child = os.fork()
        if not child:
            with LiveUserfaultfd.open() as uffd:
                socket.send_fds(theirs, [b"it"], [uffd.fileno()])
            os._exit(0)
        _, fds, _, _ = socket.recv_fds(ours, 8, 1)
        os.waitpid(child, 0)
        return fds[0]


@pytest.fixture
def driver() -> Iterator[LiveDriver]:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    journal = Journal.create()
    journal.words[Word.CHANNEL_FD] = theirs.detach()
    journal.words[Word.CLIENT_FD] = os.pidfd_open(os.getpid())
    made = LiveDriver(journal, FamilyRecord(messages.Hello()))
    with ours:
        yield made
        made.close()
        os.close(journal.words[Word.CLIENT_FD])
        journal.close()


def serve(driver: LiveDriver, uffd: int) -> Served:
    """Have it serve zeros at `START`, by a userfaultfd."""
    states = os.memfd_create("states")
    os.ftruncate(states, PAGES)
    line = LifeLine(*os.pipe())
    attach = messages.Attach(
        number=1,
        start=START,
        pages=PAGES,
        page_size=PAGE,
        shared=False,
        zeropage=True,
        exists_is_ambiguous=False,
        has_poison=True,
        prepared=False,
        has_source=False,
        has_memory=False,
        source=zero(PAGES * PAGE),
        policy=Policy(background=False),
    )
    descriptors = Descriptors(uffd, states, os.eventfd(0), line.read, line.write)
    served = Served.new(attach, descriptors, driver.bell, driver.number())
    driver.take(served)
    return served


def test_a_process_that_ends_in_the_middle_of_a_batch_does_not_end_the_pager(
    driver: LiveDriver,
) -> None:
    served = serve(driver, context_of_a_dead_process())
    fault = uffd_msg_pagefault.struct.pack
    batch = b"".join(
        fault(UFFD_EVENT_PAGEFAULT, 0, START + page * PAGE, 0) for page in range(PAGES)
    )
    context = served.main
    at, view = driver._journal.batch(context.number)
    view[: len(batch)] = batch
    driver._batch(context, at, len(batch))  # the first fill says ESRCH, and the context is closed
    assert context.closed
