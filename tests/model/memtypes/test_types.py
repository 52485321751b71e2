"""The same promises for every type with a page cache, one from outside the package included."""

from __future__ import annotations

import errno
import signal

import pytest

from model.memtypes.fifth import driver
from userfault.kernel.errors import KernelError
from userfault.kernel.events import PageFault
from userfault.kernel.modes import FaultFlag, Mode
from userfault.kernel.protocol import State
from userfault.model.faces.guest import Guest, MissingExit
from userfault.model.faces.handle import ModelUserfaultfd
from userfault.model.faces.kernel import (
    ModelKernel,
    ModelMapping,
    ModelPending,
    ModelProcess,
    ModelTask,
)
from userfault.model.profiles import FEATURE_GUEST_MEMFD, LINUX_7_3
from userfault.uapi import mman

PAGE = 4096
KINDS = ["shmem", "guest_memfd", "driver"]
BOTH = Mode.MISSING | Mode.MINOR


def world(
    kind: str, mode: Mode = BOTH
) -> tuple[ModelKernel, ModelProcess, ModelMapping, ModelUserfaultfd]:
    kernel = ModelKernel(types=[driver()])
    process = kernel.process()
    area = process.map_type(kind, 4 * PAGE)
    uffd = process.userfaultfd()
    uffd.register(area.address, area.length, mode)
    return kernel, process, area, uffd


def only(uffd: ModelUserfaultfd) -> PageFault:
    """The one message that is queued."""
    (fault,) = uffd.read()
    assert isinstance(fault, PageFault)
    return fault


def emulating(guest: Guest, task: ModelTask) -> ModelPending:
    """KVM reads a byte of the guest's first page."""

    def run() -> None:
        guest.emulate(task.task, 0, 1)

    return task.call(run)


@pytest.mark.parametrize("kind", KINDS)
def test_a_missing_page_is_reported_and_copy_ends_the_fault(kind: str) -> None:
    kernel, process, area, uffd = world(kind)
    touch = process.task().read(area.address + 5, 2)
    kernel.settle()
    assert (touch.state, touch.waits_for) == (State.BLOCKED, "fault")
    fault = only(uffd)
    assert (fault.address, fault.flags) == (area.address, 0)
    uffd.copy(area.address, b"x" * PAGE, PAGE)
    assert touch.result().data == b"xx"
    with pytest.raises(KernelError) as caught:
        uffd.copy(area.address, b"y" * PAGE, PAGE)
    assert caught.value.errno == errno.EEXIST
    kernel.check()


@pytest.mark.parametrize("kind", KINDS)
def test_a_cached_page_is_minor_and_continue_maps_it(kind: str) -> None:
    kernel, process, area, uffd = world(kind)
    alias = process.map_type(kind, area.length, backing=area.backing)
    task = process.task()
    with pytest.raises(KernelError) as caught:
        uffd.continue_(area.address, PAGE)
    assert caught.value.errno == errno.EFAULT
    task.write(alias.address, b"alias").result()
    touch = task.write(area.address, b"A")
    kernel.settle()
    fault = only(uffd)
    assert fault.flags == FaultFlag.MINOR | FaultFlag.WRITE
    uffd.continue_(area.address, PAGE)
    assert touch.result().signal == 0
    assert task.read(alias.address, 5).result().data == b"Alias"
    kernel.check()


@pytest.mark.parametrize("kind", KINDS)
def test_beyond_the_end_is_sigbus_and_never_a_message(kind: str) -> None:
    kernel, process, area, uffd = world(kind)
    assert area.backing is not None
    area.backing.object.size = 2 * PAGE
    touch = process.task().read(area.address + 3 * PAGE, 1)
    assert touch.result().signal == signal.SIGBUS
    assert not uffd.read()
    with pytest.raises(KernelError) as caught:
        uffd.copy(area.address + 3 * PAGE, b"x" * PAGE, PAGE)
    assert caught.value.errno == errno.ENOMEM
    kernel.check()


@pytest.mark.parametrize("kind", KINDS)
def test_a_refused_installation_takes_the_page_out_of_the_cache_again(kind: str) -> None:
    kernel, process, area, uffd = world(kind)
    guard = process.task().madvise(area.address, PAGE, mman.MADV_GUARD_INSTALL)
    assert guard.result().errno == 0
    with pytest.raises(KernelError) as caught:
        uffd.copy(area.address, b"x" * PAGE, PAGE)
    assert caught.value.errno == errno.EEXIST
    assert area.backing is not None
    assert not area.backing.object.cache
    assert kernel.machine.memory.folios == 0
    kernel.check()


def test_guest_memfd_never_shows_what_memory_held_before() -> None:
    kernel, process, area, uffd = world("guest_memfd")
    assert area.backing is not None
    target = area.backing.object
    _fallocate(kernel, area)
    uffd.continue_(area.address, PAGE)
    task = process.task()
    assert task.read(area.address, 8).result().data == bytes(8)
    task.write(area.address, b"host").result()
    guest = Guest(process.process.mm, target, area.address)
    seen = []
    task.call(lambda: seen.append(guest.read(task.task, 0, 4))).result()
    assert seen == [b"host"]  # up to date: nobody clears it a second time
    kernel.check()


def _fallocate(kernel: ModelKernel, area: ModelMapping) -> None:
    from userfault.model.files.filesystem import fallocate

    assert area.backing is not None
    target = area.backing.object
    fallocate(kernel.machine.files, target, mman.FALLOC_FL_KEEP_SIZE, 0, 2 * PAGE)


def test_a_private_index_is_refused_whatever_was_registered() -> None:
    kernel, process, area, uffd = world("guest_memfd")
    assert area.backing is not None
    guest = Guest(process.process.mm, area.backing.object, area.address)
    task = process.task()
    uffd.copy(area.address, b"x" * PAGE, PAGE)
    task.call(lambda: guest.convert(0, private=True)).result()
    with pytest.raises(KernelError) as caught:
        uffd.continue_(area.address, PAGE)
    assert caught.value.errno == errno.EFAULT
    seen = []
    task.call(lambda: seen.append(guest.read(task.task, 0, 1))).result()
    assert seen == [b"x"]
    kernel.check()


def test_the_guest_raises_no_message_and_kvm_does() -> None:
    kernel, process, area, uffd = world("guest_memfd")
    assert area.backing is not None
    mm, target = process.process.mm, area.backing.object
    task = process.task()
    strict = Guest(mm, target, area.address, exit_on_missing=True)
    stopped = []

    def run() -> None:
        try:
            strict.read(task.task, PAGE, 1)
        except MissingExit as missing:
            stopped.append(missing.guest_address)

    task.call(run).result()
    assert stopped == [PAGE]
    plain = Guest(mm, target, area.address)
    task.call(lambda: plain.write(task.task, 0, b"guest")).result()
    assert not uffd.read()
    emulated = emulating(plain, task)
    kernel.settle()
    assert only(uffd).flags == FaultFlag.MINOR
    uffd.continue_(area.address, PAGE)
    emulated.result()
    kernel.check()


def test_user_mode_only_refuses_kvm_its_access() -> None:
    kernel = ModelKernel()
    process = kernel.process()
    area = process.map_type("guest_memfd", PAGE)
    assert area.backing is not None
    uffd = process.userfaultfd(user_mode_only=True)
    uffd.register(area.address, PAGE, Mode.MISSING)
    guest = Guest(process.process.mm, area.backing.object, area.address)
    task = process.task()
    refused = emulating(guest, task).result()
    assert refused.errno == errno.EFAULT
    assert not uffd.read()


def test_a_feature_bit_says_whether_guest_memfd_is_served() -> None:
    assert ModelKernel().process().userfaultfd().offered & FEATURE_GUEST_MEMFD
    released = ModelKernel(LINUX_7_3).process().userfaultfd()
    assert not released.offered & FEATURE_GUEST_MEMFD


def test_no_released_kernel_serves_guest_memfd() -> None:
    process = ModelKernel(LINUX_7_3).process()
    area = process.map_type("guest_memfd", PAGE)
    uffd = process.userfaultfd()
    with pytest.raises(KernelError) as caught:
        uffd.register(area.address, PAGE, Mode.MISSING)
    assert caught.value.errno == errno.EINVAL


def test_a_handle_passed_to_another_process_fills_memory_of_its_maker() -> None:
    kernel, process, area, uffd = world("shmem")
    monitor = kernel.process()
    passed = uffd.pass_to(monitor.process)
    touch = process.task().read(area.address, 1)
    kernel.settle()
    assert isinstance(passed.read()[0], PageFault)
    passed.copy(area.address, b"m" * PAGE, PAGE)
    kernel.settle()
    assert touch.result().data == b"m"
    kernel.check()
