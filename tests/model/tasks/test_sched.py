"""Tasks: who runs, what is reported when nobody can, and the windows between two steps."""

from __future__ import annotations

import errno
import gc
import weakref

import pytest

from userfault.check.words.area import Area
from userfault.check.words.thread import Thread, start
from userfault.check.words.uffd import Uffd
from userfault.kernel import calls
from userfault.kernel.errors import TryAgain
from userfault.kernel.events import Remove
from userfault.kernel.memtypes import memory
from userfault.kernel.modes import Feature, Mode
from userfault.kernel.protocol import State
from userfault.model.errors import Deadlock
from userfault.model.faces.calls import ModelCalls
from userfault.model.faces.kernel import ModelKernel
from userfault.model.profiles import LINUX_6_18
from userfault.model.tasks.locks import RWLock
from userfault.model.tasks.sched import SPINS
from userfault.model.tasks.strategies import Seeded
from userfault.uapi import mman

PAGE = 4096
ANON = memory("anon")


def test_a_deadlock_names_the_tasks_and_what_each_waits_for() -> None:
    kernel = ModelKernel()
    sched = kernel.machine.sched
    process = kernel.process()
    lock = RWLock(sched, "example")

    def hold_and_take_again() -> None:
        lock.write()
        lock.read()

    process.task().call(hold_and_take_again)
    with pytest.raises(Deadlock) as caught:
        kernel.settle()
    ((task, waits),) = caught.value.waits
    assert task.startswith(str(process.pid))
    assert waits == "the lock example for read"


def test_a_lost_wake_up_is_told_from_a_fault_nobody_resolved() -> None:
    kernel = ModelKernel()
    process = kernel.process()
    area = process.map(ANON, 2 * PAGE)
    uffd = process.userfaultfd()
    uffd.register(area.address, area.length, Mode.MISSING)
    filled = process.task().read(area.address, 1)
    empty = process.task().read(area.address + PAGE, 1)
    kernel.settle()
    uffd.copy(area.address, b"x" * PAGE, PAGE, wake=False)
    with pytest.raises(TimeoutError, match="the page is there: its wake-up is lost"):
        filled.result()
    told = dict(kernel.machine.sched.stuck())
    assert sum("wake-up is lost" in what for what in told.values()) == 1
    uffd.wake(area.address, PAGE)
    assert filled.result().data == b"x"
    assert empty.state is State.BLOCKED


def test_fills_fail_until_the_sender_of_a_read_event_has_run_again() -> None:
    kernel = ModelKernel()
    process = kernel.process()
    area = process.map(ANON, PAGE)
    uffd = process.userfaultfd(Feature.EVENT_REMOVE)
    uffd.register(area.address, PAGE, Mode.MISSING)
    removal = process.task().madvise(area.address, PAGE, mman.MADV_DONTNEED)
    kernel.settle()
    assert removal.waits_for == "event"
    with pytest.raises(TryAgain):
        uffd.copy(area.address, b"x" * PAGE, PAGE)
    attempts: list[int] = []

    def read_and_fill() -> None:
        assert uffd.read() == [Remove(area.address, area.address + PAGE)]
        try:
            uffd.copy(area.address, b"x" * PAGE, PAGE)
        except TryAgain:
            attempts.append(errno.EAGAIN)

    process.task().call(read_and_fill).result()
    assert attempts == [errno.EAGAIN]
    kernel.settle()
    assert removal.state is State.DONE
    assert uffd.copy(area.address, b"x" * PAGE, PAGE) == PAGE
    kernel.check()


@pytest.mark.parametrize("seed", range(40))
def test_of_two_copies_of_one_shared_page_exactly_one_succeeds(seed: int) -> None:
    kernel = ModelKernel(scheduler=Seeded(seed))
    process = kernel.process()
    area = process.map(memory("shmem"), PAGE)
    uffd = process.userfaultfd()
    uffd.register(area.address, PAGE, Mode.MISSING)
    outcomes: list[int] = []

    def fill() -> None:
        try:
            outcomes.append(uffd.copy(area.address, b"x" * PAGE, PAGE))
        except OSError as error:
            outcomes.append(-(error.errno or 0))

    copies = [process.task().call(fill) for _ in range(2)]
    assert area.backing is not None
    punch = process.task().call(lambda: area.backing.punch_hole(0, 0x1000))  # type: ignore[union-attr]
    kernel.settle()
    assert all(copy.state is State.DONE for copy in (*copies, punch))
    assert PAGE in outcomes
    kernel.check()


def test_a_machine_that_nobody_holds_is_freed() -> None:
    kernel = ModelKernel()
    process = kernel.process()
    area = process.map(ANON, PAGE)
    uffd = process.userfaultfd()
    uffd.register(area.address, PAGE, Mode.MISSING)
    touch = process.task().read(area.address, 1)
    kernel.settle()
    uffd.copy(area.address, b"x" * PAGE, PAGE)
    assert touch.result().data == b"x"
    machine = weakref.ref(kernel.machine)

    del kernel, process, area, uffd, touch
    gc.collect()

    assert machine() is None


# --- What only some schedules do, and what never ends ---------------------------------------------


def _messages_for_a_page_that_is_there(seed: int) -> int:
    """Two tasks write the zero page that has just been filled in for both of them."""
    kernel = ModelKernel(LINUX_6_18, scheduler=Seeded(seed))
    process = kernel.process()
    area = process.map(memory("shmem-private"), PAGE)
    uffd = process.userfaultfd()
    uffd.register(area.address, PAGE, Mode.MISSING)
    writers = [process.task().write(area.address + at, b"w") for at in range(2)]
    kernel.settle()
    assert len(uffd.read()) == 2
    uffd.zeropage(area.address, PAGE)
    kernel.settle()
    again = uffd.read()
    uffd.wake(area.address, PAGE)
    kernel.settle()
    assert all(writer.state is State.DONE for writer in writers)
    assert process.task().read(area.address, 3).result().data == b"ww\0"
    return len(again)


def test_a_page_that_is_being_copied_has_no_entry_for_a_moment() -> None:
    assert {_messages_for_a_page_that_is_there(seed) for seed in range(100)} == {0, 1}


def _leftover_protection(kernel: ModelCalls) -> tuple[Thread, Uffd, Area]:
    """A huge page that is still protected where only MINOR is registered."""
    t = start(kernel, 10.0)
    u = t.uffd()
    area = t.map("hugetlb", pages=1)
    t.write(area.address, b"x")
    u.register(area.address, area.length, Mode.WP)
    u.writeprotect(area.address, area.length)
    u.register(area.address, area.length, Mode.MINOR)
    return t, u, area


def test_a_write_that_never_returns_goes_on_when_the_protection_is_lifted() -> None:
    t, u, area = _leftover_protection(ModelCalls(LINUX_6_18))
    writer = t.thread().call(calls.Write(area.address, b"w"))
    assert writer.waits_for == SPINS
    t.read(area.address)
    assert writer.waits_for == SPINS
    u.register(area.address, area.length, Mode.WP)
    u.writeprotect(area.address, area.length, 0)
    assert writer.state is State.DONE
    assert t.read(area.address, 1) == b"w"


def test_a_write_that_never_returns_ends_with_its_process() -> None:
    kernel = ModelCalls(LINUX_6_18)
    t, _, area = _leftover_protection(kernel)
    writer = t.thread().call(calls.Write(area.address, b"w"))
    with pytest.raises(TimeoutError, match="another registration"):
        writer.result()
    kernel.close()  # walks every invariant
    assert writer.state is State.DONE


@pytest.mark.parametrize("seed", range(20))
def test_two_that_spin_do_not_keep_each_other_busy(seed: int) -> None:
    t, _, area = _leftover_protection(ModelCalls(LINUX_6_18, scheduler=Seeded(seed)))
    writers = [t.thread().call(calls.Write(area.address + at, b"w")) for at in range(2)]
    assert [writer.waits_for for writer in writers] == [SPINS, SPINS]
