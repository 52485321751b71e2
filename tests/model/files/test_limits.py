"""Out of memory, over a limit, an empty pool: the right errno, and nothing is lost."""

from __future__ import annotations

import errno

import pytest

from userfault.kernel.errors import KernelError
from userfault.kernel.memtypes import MIB, memory
from userfault.kernel.modes import Mode
from userfault.model.faces.kernel import ModelKernel
from userfault.model.files.folio import Cgroup
from userfault.model.profiles import LINUX_6_17, LINUX_6_18, Config, Profile

PAGE = 4096


@pytest.mark.parametrize("name", ["anon", "shmem", "shmem-private", "guest_memfd"])
def test_a_fill_without_memory_is_enomem_and_leaks_nothing(name: str) -> None:
    kernel = ModelKernel(config=Config(limit_pages=3))
    process = kernel.process()
    area = process.map(memory(name), 8 * PAGE)
    uffd = process.userfaultfd()
    uffd.register(area.address, area.length, Mode.MISSING)
    with pytest.raises(KernelError) as caught:
        uffd.copy(area.address, b"x" * 8 * PAGE, 8 * PAGE)
    assert (caught.value.errno, caught.value.done) == (errno.EAGAIN, 3 * PAGE)
    with pytest.raises(KernelError) as caught:
        uffd.copy(area.address + 3 * PAGE, b"x" * PAGE, PAGE)
    assert caught.value.errno == errno.ENOMEM
    kernel.check()
    process.task().munmap(area.address, area.length).result()
    kernel.check()


def test_a_cgroup_over_its_limit_is_enomem() -> None:
    kernel = ModelKernel()
    group = Cgroup(2)
    process = kernel.process(cgroup=group)
    area = process.map(memory("anon"), 4 * PAGE)
    uffd = process.userfaultfd()
    uffd.register(area.address, area.length, Mode.MISSING)
    uffd.copy(area.address, b"x" * 2 * PAGE, 2 * PAGE)
    with pytest.raises(KernelError) as caught:
        uffd.copy(area.address + 2 * PAGE, b"x" * PAGE, PAGE)
    assert caught.value.errno == errno.ENOMEM
    assert group.charged == 2
    kernel.check()


@pytest.mark.parametrize(
    ("profile", "code"), [(LINUX_6_17, errno.ENOMEM), (LINUX_6_18, errno.EEXIST)]
)
def test_an_empty_hugetlb_pool_has_the_errno_of_the_version(profile: Profile, code: int) -> None:
    kernel = ModelKernel(profile)
    pool = kernel.machine.memory.pools[21]
    process = kernel.process()
    area = process.map(memory("hugetlb-private"), 4 * MIB, grow_pool=True)
    uffd = process.userfaultfd()
    uffd.register(area.address, area.length, Mode.MISSING)
    uffd.copy(area.address, b"x" * 2 * MIB, 2 * MIB)
    child = kernel.by_pid(process.task().fork().result().value)
    assert pool.free == 1
    heir = child.userfaultfd()
    heir.register(area.address, area.length, Mode.MISSING)
    with pytest.raises(KernelError) as caught:
        heir.copy(area.address + 2 * MIB, b"y" * 2 * MIB, 2 * MIB)
    assert caught.value.errno == code
    kernel.check()
    uffd.copy(area.address + 2 * MIB, b"y" * 2 * MIB, 2 * MIB)  # promised to the parent
    kernel.check()


@pytest.mark.parametrize("refused", range(6))
def test_an_allocation_that_fails_anywhere_leaves_every_count_as_it_was(refused: int) -> None:
    kernel = ModelKernel()
    process = kernel.process()
    area = process.map(memory("shmem"), 6 * PAGE)
    uffd = process.userfaultfd()
    uffd.register(area.address, area.length, Mode.MISSING)
    kernel.machine.memory.fail_after = refused
    with pytest.raises(KernelError):
        uffd.copy(area.address, b"x" * 6 * PAGE, 6 * PAGE)
    assert kernel.machine.memory.folios == refused
    kernel.check()
