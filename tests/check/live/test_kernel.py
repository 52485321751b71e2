"""The running Linux behind the protocol of calls: what a program sees of it."""

from __future__ import annotations

import os
import signal
import struct
import threading
from errno import EAGAIN, EBADF, EFAULT, EINTR, ENOSPC, ENXIO, EPERM, ESRCH
from pathlib import Path

import pytest

from helpers.skips import need_root
from userfault.check.live.kernel import LiveKernel
from userfault.check.words.outcome import Failed, Lost
from userfault.check.words.thread import SIGBUS, SIGSEGV, Thread
from userfault.check.words.uffd import MISSING
from userfault.kernel import calls
from userfault.kernel.calls import FIRST_FD, PAGE, Mmap, Read, Write
from userfault.kernel.events import Fork as ForkEvent
from userfault.kernel.modes import Feature
from userfault.kernel.protocol import State
from userfault.uapi import mman
from userfault.uapi import pagemap as pm

BUS_ADRERR = 2
SEGV_MAPERR = 1
SEGV_ACCERR = 2


# --- Touches -------------------------------------------------------------------------------------


@pytest.mark.parametrize("offset", range(9))
@pytest.mark.parametrize("length", [1, 7, 8, 9, 23])
def test_what_is_written_is_read_at_any_alignment(t: Thread, offset: int, length: int) -> None:
    area = t.map("anon")
    data = bytes(range(1, length + 1))

    t.write(area.address + offset, data)

    around = t.read(area.address, 64)
    assert around == bytes(offset) + data + bytes(64 - offset - length)


def test_a_touch_of_nothing_is_sigsegv_with_its_address(t: Thread) -> None:
    nowhere = t.program.free_place() + 12

    info = t.raises(Read(nowhere, 1), SIGSEGV)

    assert (info.code, info.address, info.lsb) == (SEGV_MAPERR, nowhere, 0)


def test_a_touch_without_permission_is_sigsegv(t: Thread) -> None:
    area = t.map("anon", prot=mman.PROT_READ)

    assert t.raises(Write(area.address + 1, b"x"), SIGSEGV).code == SEGV_ACCERR


def test_a_touch_beyond_the_file_is_sigbus(t: Thread) -> None:
    area = t.map("shmem")
    t.ok(calls.Ftruncate(area.fd, 0))

    info = t.raises(Read(area.address, 1), SIGBUS)

    assert (info.code, info.address) == (BUS_ADRERR, area.address)


def test_a_touch_that_ends_midway_tells_how_far_it_came(t: Thread) -> None:
    area = t.map("anon", pages=2)
    t.ok(calls.Munmap(area.at(1), PAGE))
    t.write(area.at(1) - 5, b"hello")

    read = t.do(Read(area.at(1) - 5, 20))
    written = t.do(Write(area.at(1) - 5, bytes(20)))

    assert (read.value, read.data) == (5, b"hello")
    assert read.signal is not None
    assert read.signal.address == area.at(1)
    assert written.value == 5


def test_a_thread_goes_on_after_its_signals(t: Thread) -> None:
    nowhere = t.program.free_place()
    area = t.map("anon")

    for _ in range(3):
        t.raises(Write(nowhere, b"x"), SIGSEGV)
        t.write(area.address, b"still here")
    assert t.do(Read(area.address, 10)).signal is None


# --- Descriptors and files -----------------------------------------------------------------------


def test_descriptors_are_the_lowest_free_ones(t: Thread) -> None:
    first = t.ok(calls.MemfdCreate()).value
    second = t.ok(calls.Dup(first)).value
    t.thread()
    pipe = calls.PIPE_FDS.struct.unpack(t.ok(calls.Pipe()).data)
    t.ok(calls.Close(second))
    t.page(t.map("anon").address)  # a witness takes none
    again = t.ok(calls.Dup(first)).value

    assert (first, second, pipe, again) == (FIRST_FD, FIRST_FD + 1, (5, 6), FIRST_FD + 1)
    t.fails(calls.Close(7), EBADF)


def test_files_are_read_and_written_through_private_buffers(t: Thread) -> None:
    fd = t.ok(calls.MemfdCreate()).value
    big = bytes(range(256)) * (1 << 12)

    assert t.ok(calls.Pwrite(fd, big, 100)).value == len(big)
    assert t.ok(calls.Pread(fd, len(big), 100)).data == big
    size, blocks = calls.STAT_FIELDS.struct.unpack(t.ok(calls.Fstat(fd)).data)
    assert size == 100 + len(big)
    assert blocks == (257 * PAGE) // 512
    assert t.ok(calls.Lseek(fd, -1, os.SEEK_END)).value == size - 1
    assert t.ok(calls.ReadFd(fd, 10)).data == big[-1:]
    assert t.ok(calls.Reopen(fd, os.O_RDONLY)).value == fd + 1
    t.fails(calls.Pwrite(fd + 1, b"x"), EBADF)


def test_a_small_tmpfs_is_small_and_leaves_one_descriptor(t: Thread) -> None:
    need_root()
    opened = t.ok(calls.Open(calls.File.TMPFS, os.O_RDWR, pages=2))

    assert opened.value == FIRST_FD
    assert t.ok(calls.Pwrite(FIRST_FD, bytes(2 * PAGE))).value == 2 * PAGE
    t.fails(calls.Pwrite(FIRST_FD, b"x", 2 * PAGE), ENOSPC)
    assert t.ok(calls.Dup(FIRST_FD)).value == FIRST_FD + 1


def test_an_ordinary_file_is_not_memory(t: Thread) -> None:
    fd = t.ok(calls.Open(calls.File.ORDINARY, os.O_RDWR)).value
    t.ok(calls.Ftruncate(fd, 2 * PAGE))
    seek_data_of_a_hole = t.do(calls.Lseek(fd, 0, os.SEEK_DATA))

    assert seek_data_of_a_hole.errno == ENXIO
    assert t.ok(calls.Pread(fd, 4)).data == bytes(4)


def test_system_calls_touch_memory_of_the_process(t: Thread) -> None:
    area = t.map("anon")
    source, sink = calls.PIPE_FDS.struct.unpack(t.ok(calls.Pipe()).data)
    t.write(area.address, b"through a pipe")

    assert t.ok(calls.WriteFrom(sink, area.address, 14)).value == 14
    assert t.ok(calls.ReadInto(source, area.address + 100, 20)).value == 14
    assert t.read(area.address + 100, 14) == b"through a pipe"
    remote = calls.ProcessVmReadv(t.process.pid, area.address + 108, 6)
    assert t.ok(remote).data == b"a pipe"
    t.fails(calls.WriteFrom(sink, t.program.free_place(), 1), EFAULT)


# --- Waiting -------------------------------------------------------------------------------------


def test_what_sleeps_is_blocked_and_what_is_behind_it_has_not_begun(t: Thread) -> None:
    u = t.uffd()
    area = t.map("anon")
    u.register(area.address, area.length, MISSING)
    other = t.process.task()

    first, second = other.call(Read(area.address, 1)), other.call(Read(area.address, 2))
    t.program.settle()

    assert (first.state, first.waits_for) == (State.BLOCKED, calls.WAITS_FAULT)
    assert second.state is State.NOT_STARTED
    with pytest.raises(TimeoutError, match="fault"):
        first.result(0.05)
    u.copy(area.address, t.source(b"s"), PAGE)
    assert second.result().data == b"ss"
    assert first.state is State.DONE


@pytest.mark.parametrize(
    ("wait", "name"),
    [
        (calls.ReadFd(FIRST_FD, 1), calls.WAITS_PIPE),
        (calls.Poll(FIRST_FD, 1, timeout_ms=-1), calls.WAITS_MESSAGE),
    ],
)
def test_other_sleeps_are_named(t: Thread, wait: calls.Call, name: str) -> None:
    t.ok(calls.Pipe())

    sleeper = t.thread().blocks(wait, name)
    t.ok(calls.WriteFd(FIRST_FD + 1, b"x"))

    assert sleeper.ok().value == 1


def test_a_signal_interrupts_a_sleep_and_nothing_else(t: Thread) -> None:
    t.ok(calls.Pipe())
    other = t.thread()
    t.ok(calls.Signal(other.thread_id))  # while it has nothing to do
    read = other.blocks(calls.ReadFd(FIRST_FD, 1), calls.WAITS_PIPE)

    t.ok(calls.Signal(other.thread_id, restart=True))
    read.still("a signal with SA_RESTART")
    t.ok(calls.Signal(other.thread_id))

    assert read.finish().errno == EINTR


def test_settle_waits_for_what_still_runs(t: Thread) -> None:
    slow = calls.Poll(-1, 0, timeout_ms=50)  # of no descriptor: it ends by itself
    pending = t.process.task().call(slow)

    assert pending.result().value == 0


# --- Processes -----------------------------------------------------------------------------------


def test_a_forked_child_is_a_process_of_its_own(t: Thread) -> None:
    area = t.map("anon")
    t.write(area.address, b"before")
    fd = t.ok(calls.MemfdCreate()).value

    child = t.fork()
    child.write(area.address, b"after!")
    child.ok(calls.Pwrite(fd, b"shared"))

    assert child.process.pid != t.process.pid
    assert t.read(area.address, 6) == b"before"
    assert t.ok(calls.Pread(fd, 6)).data == b"shared"
    grandchild = child.fork()
    assert grandchild.read(area.address, 6) == b"after!"
    assert set(t.program.kernel.processes) >= {t.process.pid, child.process.pid}


def test_a_child_that_exits_can_be_waited_for(t: Thread) -> None:
    child = t.fork()
    pid = child.process.pid
    waiting = t.thread().blocks(calls.Wait(pid), calls.WAITS_CHILD)

    assert child.do(calls.Exit(3)).errno == ESRCH

    status = calls.WAIT_STATUS.struct.unpack(waiting.ok().data)[0]
    assert os.waitstatus_to_exitcode(status) == 3
    assert not child.process.alive
    assert child.do(calls.Exit(3)).errno == ESRCH


def test_a_fork_sleeps_until_its_event_is_read(t: Thread) -> None:
    u = t.uffd(Feature.EVENT_FORK)
    area = t.map("anon")
    u.register(area.address, area.length, MISSING)
    forking = t.thread().blocks(calls.Fork(), calls.WAITS_EVENT)

    event = u.message()
    child = t.child(forking.ok().value)

    assert isinstance(event, ForkEvent)
    child.blocks(Read(area.address, 1))
    assert event.userfaultfd == u.fd + 1


def test_the_last_reference_to_a_userfaultfd_is_the_programs(t: Thread) -> None:
    u = t.uffd()
    area = t.map("anon")
    u.register(area.address, area.length, MISSING)
    child = t.fork()
    reader = t.thread().blocks(Read(area.address, 1))

    u.close()
    reader.still("close() while the child has it open")
    u.by(child).close()

    reader.read(b"\0")


def test_a_capability_is_given_up_by_one_thread(t: Thread) -> None:
    need_root()
    other = t.thread()
    t.ok(calls.DropCapability(calls.CAP_SYS_PTRACE))

    t.fails(calls.Userfaultfd(0), EPERM)
    other.ok(calls.Userfaultfd(0))


# --- Witnesses -----------------------------------------------------------------------------------


def test_pagemap_tells_pages_apart(t: Thread) -> None:
    anon, shared = t.map("anon", pages=2), t.map("shmem", pages=2)
    t.write(anon.address, b"x")
    t.write(shared.address, b"x")

    assert [t.page(anon.at(0)), t.page(anon.at(1))] == ["P---X", "-----"]
    assert [t.page(shared.at(0)), t.page(shared.at(1))] == ["P-F-X", "-----"]
    assert [t.resident(shared.at(0)), t.resident(shared.at(1))] == [True, False]


def test_a_survey_gives_the_states_of_pages_and_the_bytes_of_those_that_are_there(
    t: Thread,
) -> None:
    area = t.map("anon", pages=4)
    t.write(area.at(1), b"one")
    t.write(area.at(3), b"three")
    survey = calls.Survey(area.address, PAGE, 4, pm.PM_PRESENT, 0, 8)
    (seen,) = t.process.look([survey])

    data = seen.result().data
    words = struct.unpack("=4Q", data[:32])
    assert [bool(word & pm.PM_PRESENT) for word in words] == [False, True, False, True]
    assert data[32:] == b"one".ljust(8, b"\0") + b"three".ljust(8, b"\0")


def test_a_survey_has_no_bytes_of_a_page_that_may_not_be_read(t: Thread) -> None:
    area = t.map("anon", pages=2)
    t.write(area.address, bytes(range(1, 9)) * 1024)
    t.ok(calls.Mprotect(area.address, PAGE, mman.PROT_NONE))
    (seen,) = t.process.look([calls.Survey(area.address, PAGE, 2, pm.PM_PRESENT, 0, 8)])

    assert seen.result().data[16:] == bytes(range(1, 9))


def test_files_are_looked_at_without_a_descriptor_of_the_program(t: Thread) -> None:
    file = t.ok(calls.MemfdCreate(0)).value
    t.ok(calls.Ftruncate(file, 3 * PAGE))
    t.ok(calls.Pwrite(file, b"content", PAGE))
    size, data = t.process.look([calls.Fstat(file), calls.Pread(file, 7, PAGE)])

    assert size.result() == t.ok(calls.Fstat(file))
    assert data.result().data == b"content"
    assert t.ok(calls.MemfdCreate(0)).value == file + 1


def test_a_page_that_compaction_moves_is_seen_as_present(t: Thread) -> None:
    need_root()
    compact = Path("/proc/sys/vm/compact_memory")
    if not compact.exists():
        pytest.skip("this kernel does not compact memory on request (CONFIG_COMPACTION)")
    pages = 8192
    area = t.map("anon", pages=pages)
    t.ok(calls.Madvise(area.address, area.length, mman.MADV_POPULATE_WRITE))
    for number in range(1, pages, 2):  # holes to move pages into
        t.ok(calls.Madvise(area.at(number), PAGE, mman.MADV_DONTNEED))
    done = threading.Event()

    def move() -> None:
        while not done.is_set():
            compact.write_text("1")

    mover = threading.Thread(target=move)
    mover.start()
    try:
        words = calls.Survey(area.address, 2 * PAGE, pages // 2, pm.PM_PRESENT, 0, 0)
        for _ in range(50):
            (seen,) = t.process.look([words])
            states = struct.unpack(f"={pages // 2}Q", seen.result().data)
            assert all(word & pm.PM_PRESENT for word in states)
    finally:
        done.set()
        mover.join()


def test_smaps_lists_what_overlaps(t: Thread) -> None:
    area = t.map("anon", pages=3)
    t.ok(calls.Mprotect(area.at(1), PAGE, mman.PROT_READ))
    t.write(area.at(2), b"x")

    found = t.ok(calls.Smaps(area.at(1), area.at(2) + 1)).vmas

    assert [(vma.start, vma.permissions) for vma in found] == [
        (area.at(1), "r--p"),
        (area.at(2), "rw-p"),
    ]
    assert found[1].rss == found[1].anonymous == PAGE


def test_a_scan_lists_regions(t: Thread) -> None:
    area = t.map("anon", pages=4)
    t.write(area.at(1), bytes(2 * PAGE))
    present = 1 << 3

    scan = calls.PagemapScan(area.address, area.end, category_mask=present, return_mask=present)
    found = t.ok(scan)

    end, *region = struct.unpack("=4Q", found.data)
    assert (found.value, end, region) == (1, area.end, [area.at(1), area.at(3), present])


def test_a_mapping_never_takes_a_place_that_is_in_use(t: Thread) -> None:
    area = t.map("anon")

    assert t.do(Mmap(area.address, PAGE)).errno == 17  # EEXIST of MAP_FIXED_NOREPLACE


# --- When things go wrong ------------------------------------------------------------------------


def test_a_process_that_is_killed_is_lost_and_said_so(t: Thread) -> None:
    area = t.map("anon")
    os.kill(t.process.pid, signal.SIGKILL)

    def until_it_is_noticed() -> None:
        while True:
            t.read(area.address)

    with pytest.raises(Lost, match="ended by itself"):
        until_it_is_noticed()


def test_a_call_on_its_way_ends_with_its_process(t: Thread) -> None:
    t.ok(calls.Pipe())
    child = t.fork()
    pending = child.call(calls.ReadFd(FIRST_FD, 1))

    os.kill(child.process.pid, signal.SIGKILL)

    assert pending.result().errno == ESRCH
    assert t.process.alive


def test_what_must_not_happen_is_told_with_the_call(t: Thread) -> None:
    with pytest.raises(Failed, match=r"Close\(99\): promised success, saw EBADF"):
        t.ok(calls.Close(99))
    with pytest.raises(Failed, match=r"promised EAGAIN, saw EBADF"):
        t.fails(calls.Close(99), EAGAIN)
    with pytest.raises(Failed, match="did not sleep"):
        t.blocks(calls.Dup(0))
    assert t.program.trace[-1].endswith("Dup(0) -> 3")


def test_kernels_do_not_disturb_each_other(agent: None) -> None:  # noqa: ARG001
    def one_program(found: list[bool]) -> None:
        kernel = LiveKernel()
        task = kernel.process().tasks[0]
        for number in range(50):
            address = calls.place(number)
            task.call(Mmap(address, PAGE))
            written = task.call(Write(address, b"mine"))
            kernel.settle()
            found.append(written.result().value == 4)
        kernel.close()

    found: list[bool] = []
    threads = [threading.Thread(target=one_program, args=(found,)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [True] * 150
