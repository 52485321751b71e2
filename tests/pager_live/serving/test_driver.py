"""The driver on its own, in moments that a live client reaches too rarely for a test."""

from __future__ import annotations

import fcntl
import os
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from helpers.pages import PAGE
from helpers.skips import absent
from userfault import Policy, zero
from userfault.kernel.modes import Feature, Mode
from userfault.linux import libc
from userfault.linux.lifeline import LifeLine
from userfault.linux.uffd import LiveUserfaultfd
from userfault.pager.drivers.mappings.served import Served
from userfault.pager.drivers.record.journal import Journal
from userfault.pager.drivers.record.records import Descriptors, FamilyRecord, encode
from userfault.pager.drivers.wire import messages
from userfault.pager.drivers.worker import Worker
from userfault.uapi import mman
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
def worker() -> Iterator[Worker]:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    journal = Journal.create()
    journal.commit(encode(FamilyRecord(messages.Hello())))
    with ours:
        made = Worker(journal)
        made.clients.add(theirs, os.pidfd_open(os.getpid()))
        yield made
        made.close()
        journal.close()


def child_that_drops_a_page() -> tuple[int, int, int]:
    """A process that sleeps in madvise until its event is read: its id, the userfaultfd, and the
    address of the registered memory."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        child = os.fork()
        if not child:
            length = PAGES * PAGE
            flags = mman.MAP_PRIVATE | mman.MAP_ANONYMOUS
            start = libc.mmap(0, length, mman.PROT_READ | mman.PROT_WRITE, flags, -1, 0)
            with LiveUserfaultfd.open(Feature.EVENT_REMOVE) as uffd:
                uffd.register(start, length, Mode.MISSING)
                socket.send_fds(theirs, [str(start).encode()], [uffd.fileno()])
                libc.madvise(start + PAGE, PAGE, mman.MADV_DONTNEED)
                signal.pause()
            os._exit(0)
        data, fds, _, _ = socket.recv_fds(ours, 64, 1)
        end = time.monotonic() + 60
        where = Path(f"/proc/{child}/wchan")
        while "userfaultfd_event_wait" not in where.read_text():
            assert time.monotonic() < end
        return child, fds[0], int(data)


def serve(worker: Worker, uffd: int, start: int = START, policy: Policy | None = None) -> Served:
    """Have it serve zeros at `start`, by a userfaultfd."""
    states = os.memfd_create("states")
    os.ftruncate(states, PAGES)
    line = LifeLine(*os.pipe())
    attach = messages.Attach(
        number=1,
        start=start,
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
        policy=policy or Policy(background=False),
    )
    descriptors = Descriptors(uffd, states, os.eventfd(0), line.read, line.write)
    (client,) = worker.book.clients.values()
    number = worker.book.number()
    served = Served.new(attach, descriptors, worker.service.reads.threads, client.owner, number)
    worker.clients.take(client, served)
    return served


def test_a_process_that_ends_in_the_middle_of_a_batch_does_not_end_the_pager(
    worker: Worker,
) -> None:
    served = serve(worker, context_of_a_dead_process())
    fault = uffd_msg_pagefault.struct.pack
    batch = b"".join(
        fault(UFFD_EVENT_PAGEFAULT, 0, START + page * PAGE, 0) for page in range(PAGES)
    )
    context = served.main
    at, view = worker.journal.batch(context.number)
    view[: len(batch)] = batch
    worker.service.intake.batch(
        context, at, len(batch)
    )  # the first fill says ESRCH, and the context is closed
    assert context.closed


def test_a_fault_whose_fill_meets_eagain_for_long_is_told_of_and_served_in_the_end(
    worker: Worker, capfd: pytest.CaptureFixture[str]
) -> None:
    child, uffd, start = child_that_drops_a_page()
    policy = Policy(background=False, fault_deadline_s=0.05, on_overdue="poison")
    served = serve(worker, uffd, start, policy)
    context = served.main
    try:
        context.core.fault(start + 5 * PAGE, 0)
        worker.service.perform(context)  # the event is in the queue, and nobody reads it yet
        end = time.monotonic() + 60
        while not served.overdue and time.monotonic() < end:
            worker.service.timed.tick(time.monotonic())
            worker.service.deferring.tick(time.monotonic())
        (waited,) = served.overdue
        assert "EAGAIN" in waited.waits_for
        assert waited.answer == "report"  # poison would meet EAGAIN as well
        assert "has waited for" in capfd.readouterr().err
        # 50 ms without a result: it is tried every millisecond, not all the time
        assert served.main.core.counters.again < 200
        worker.service.intake.readable(context)
        worker.service.deferring.tick(time.monotonic())
        while context.core.deferred and time.monotonic() < end:
            worker.service.deferring.tick(time.monotonic())
        assert (context.core.counters.zeroed, context.core.watch.overdue) == (1, 0)
        assert not worker.service.deferring
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def test_a_client_that_makes_its_userfaultfd_block_does_not_stop_the_loop(worker: Worker) -> None:
    """It may also have read the message of which epoll has told."""

    def late(*_: object) -> None:
        raise RuntimeError("the loop waits for one client")

    with LiveUserfaultfd.open() as uffd:
        flags = fcntl.fcntl(uffd.fileno(), fcntl.F_GETFL)
        fcntl.fcntl(uffd.fileno(), fcntl.F_SETFL, flags & ~os.O_NONBLOCK)
        if not reads_without_waiting(uffd.fileno()):
            absent("needs RWF_NOWAIT for userfaultfd (6.10)")
        served = serve(worker, os.dup(uffd.fileno()))
        before = signal.signal(signal.SIGALRM, late)
        signal.alarm(60)
        try:
            worker.service.intake.readable(served.main)
        finally:
            signal.alarm(0)
            signal.signal(signal.SIGALRM, before)
        assert not served.lost


def reads_without_waiting(fd: int) -> bool:
    try:
        os.preadv(fd, [bytearray(32)], -1, os.RWF_NOWAIT)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return True


def test_a_stopped_client_does_not_keep_its_pager_from_filling(worker: Worker) -> None:
    child, uffd, start = child_that_drops_a_page()
    served = serve(worker, uffd, start)
    try:
        os.kill(child, signal.SIGSTOP)
        worker.service.intake.readable(served.main)
        served.main.core.fault(start + 5 * PAGE, 0)
        worker.service.perform(served.main)
        end = time.monotonic() + 60
        while worker.service.deferring and time.monotonic() < end:
            worker.service.deferring.tick(time.monotonic())
        assert served.main.core.counters.zeroed == 1
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
