"""guest_memfd under `posted` does what a 7.3.4 with the patches of March 2026 was seen to do.

Measured on 7.3.4 with the two patches carried over that are no selftests.  test_flaws.py has races.
"""

from __future__ import annotations

import errno
import signal
from collections.abc import Callable

import pytest

from userfault.kernel.errors import KernelError, RegistrationRefused
from userfault.kernel.events import PageFault
from userfault.kernel.modes import FaultFlag, Mode
from userfault.kernel.protocol import State
from userfault.model.faces.guest import Guest
from userfault.model.faces.handle import ModelUserfaultfd
from userfault.model.faces.kernel import ModelKernel, ModelMapping, ModelProcess
from userfault.model.files import filesystem
from userfault.model.profiles import NEXT, Config
from userfault.uapi import mman

PAGE = 4096
BOTH = Mode.MISSING | Mode.MINOR
World = tuple[ModelKernel, ModelProcess, ModelMapping, ModelUserfaultfd]


def world(mode: Mode | None = BOTH) -> World:
    """Four pages of a guest_memfd, nothing cached."""
    kernel = ModelKernel(NEXT, Config(design="posted"))
    process = kernel.process()
    area = process.map_type("guest_memfd", 4 * PAGE)
    uffd = process.userfaultfd()
    if mode is not None:
        uffd.register(area.address, area.length, mode)
    return kernel, process, area, uffd


def refused(code: int, call: Callable[[], object]) -> None:
    with pytest.raises(KernelError) as caught:
        call()
    assert caught.value.errno == code


def cache(process: ModelProcess, area: ModelMapping, page: int) -> None:
    """A page in the cache and not mapped there."""
    alias = process.map_type("guest_memfd", area.length, backing=area.backing)
    process.task().write(alias.address + page * PAGE, b"cached").result()


def allocate(kernel: ModelKernel, area: ModelMapping) -> None:
    assert area.backing is not None
    keep = mman.FALLOC_FL_KEEP_SIZE
    filesystem.fallocate(kernel.machine.files, area.backing.object, keep, 0, PAGE)


@pytest.mark.parametrize(
    ("mode", "ioctls"),
    [
        (Mode.MISSING, 0x13C),
        (Mode.WP, 0x17C),
        (Mode.MINOR, 0x1BC),
        (Mode.MISSING | Mode.WP, 0x17C),
        (Mode.MISSING | Mode.MINOR, 0x1BC),
        (Mode.WP | Mode.MINOR, 0x1FC),
        (Mode.MISSING | Mode.WP | Mode.MINOR, 0x1FC),
    ],
    ids=str,
)
def test_it_registers_with_the_ioctls_of_a_memfd(mode: Mode, ioctls: int) -> None:
    _, _, area, uffd = world(None)
    assert uffd.register(area.address, area.length, mode) == ioctls


@pytest.mark.parametrize("mode", [Mode.MISSING, Mode.WP, Mode.MINOR], ids=str)
def test_a_file_that_may_not_be_touched_registers_for_nothing(mode: Mode) -> None:
    _, _, area, uffd = world(None)
    assert area.backing is not None
    area.backing.object.traits = 1  # MMAP without INIT_SHARED
    with pytest.raises(RegistrationRefused):
        uffd.register(area.address, area.length, mode)


def test_only_a_trial_registration_tells() -> None:
    _, _, _, uffd = world(None)
    assert uffd.offered == 0x7FFFF


def test_copy_of_what_is_cached_is_eexist_and_unlocks_a_folio_twice_each_time() -> None:
    kernel, process, area, uffd = world()
    cache(process, area, 1)
    assert uffd.copy(area.address, b"x" * PAGE, PAGE) == PAGE
    refused(errno.EEXIST, lambda: uffd.copy(area.address, b"y" * PAGE, PAGE))
    refused(errno.EEXIST, lambda: uffd.copy(area.address + PAGE, b"y" * PAGE, PAGE))
    assert kernel.machine.memory.bad_unlocks == 2
    kernel.check()


def test_continue_of_absent_mapped_and_cached_pages() -> None:
    kernel, process, area, uffd = world()
    refused(errno.EFAULT, lambda: uffd.continue_(area.address, PAGE))
    cache(process, area, 0)
    assert uffd.continue_(area.address, PAGE) == PAGE
    refused(errno.EEXIST, lambda: uffd.continue_(area.address, PAGE))
    assert process.task().read(area.address, 6).result().data == b"cached"
    kernel.check()


def test_zeropage_is_a_real_page_and_poison_leaves_the_cache_alone() -> None:
    kernel, process, area, uffd = world()
    assert uffd.zeropage(area.address, PAGE) == PAGE
    refused(errno.EEXIST, lambda: uffd.zeropage(area.address, PAGE))
    assert area.backing is not None
    assert 0 in area.backing.object.cache
    refused(errno.EEXIST, lambda: uffd.poison(area.address, PAGE))
    cache(process, area, 1)
    assert uffd.poison(area.address + PAGE, PAGE) == PAGE
    touched = process.task().read(area.address + PAGE, 1).result()
    assert touched.signal == signal.SIGBUS
    kernel.check()


def test_a_page_that_fallocate_made_is_shown_as_it_was() -> None:
    kernel, process, area, uffd = world(Mode.MINOR)
    allocate(kernel, area)
    touch = process.task().read(area.address, 5)
    kernel.settle()
    (fault,) = uffd.read()
    assert isinstance(fault, PageFault)
    assert fault.flags == FaultFlag.MINOR
    uffd.continue_(area.address, PAGE)
    assert touch.result().data == b"\xa5stal"


def test_preallocation_disables_missing_and_copy() -> None:
    kernel, process, area, uffd = world(Mode.MISSING)
    allocate(kernel, area)
    assert process.task().read(area.address, 5).result().data == bytes(5)
    refused(errno.EEXIST, lambda: uffd.copy(area.address, b"x" * PAGE, PAGE))


def test_minor_alone_does_not_see_an_absent_page() -> None:
    _, process, area, uffd = world(Mode.MINOR)
    assert process.task().read(area.address, 5).result().data == bytes(5)
    assert not uffd.read()


def test_beyond_the_end_a_reader_waits_until_it_is_unregistered() -> None:
    kernel, process, area, uffd = world()
    assert area.backing is not None
    area.backing.object.size = PAGE
    beyond = area.address + PAGE
    touch = process.task().read(beyond, 1)
    kernel.settle()
    assert (touch.state, touch.waits_for) == (State.BLOCKED, "fault")
    assert len(uffd.read()) == 1
    refused(errno.ENOMEM, lambda: uffd.copy(beyond, b"x" * PAGE, PAGE))
    refused(errno.ENOMEM, lambda: uffd.zeropage(beyond, PAGE))
    refused(errno.EFAULT, lambda: uffd.continue_(beyond, PAGE))
    refused(errno.EFAULT, lambda: uffd.poison(beyond, PAGE))
    uffd.wake(beyond, PAGE)
    kernel.settle()
    assert len(uffd.read()) == 1  # the same again
    uffd.unregister(area.address, area.length)
    assert touch.result().signal == signal.SIGBUS


def test_a_guest_makes_its_own_page_and_tells_nobody() -> None:
    kernel, process, area, uffd = world()
    assert area.backing is not None
    guest = Guest(process.process.mm, area.backing.object, area.address)
    task = process.task()
    task.call(lambda: guest.write(task.task, 0, b"guest")).result()
    assert not uffd.read()
    refused(errno.EEXIST, lambda: uffd.copy(area.address, b"x" * PAGE, PAGE))
    kernel.check()
