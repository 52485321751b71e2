"""What random programs showed on the kernels of the lab, on the model under their profiles.

Each program ran on the kernels named here; what it ends with is what they answered.
"""

from __future__ import annotations

import errno
import os

import pytest

from userfault.check.differential.areas import AREAS
from userfault.check.differential.program import from_text
from userfault.check.differential.verbs import Scope, calls_of
from userfault.kernel import calls
from userfault.kernel.calls import HUGE, PAGE, CallTask, Result
from userfault.model.faces.calls import ModelCalls
from userfault.model.profiles import PROFILES
from userfault.uapi import kvm, mman

BEFORE_6_17, SINCE_6_17 = ("6.1", "6.12"), ("6.17", "6.18", "7.2", "7.3")
DST = AREAS["dst"]


def run(profile: str, text: str) -> tuple[CallTask, Result]:
    """The task that ran the program, and the result of its last call."""
    kernel = ModelCalls(PROFILES[profile], checking=True)
    kernel.hugepages(calls.HUGE, 8)
    task: CallTask = kernel.process().tasks[0]
    scope, result = Scope(), Result()
    for step in from_text(text):
        steps = calls_of(step, scope)
        try:
            call = next(steps)
            while True:
                result = task.call(call).result()
                call = steps.send(result)
        except StopIteration:
            continue
    return task, result


def mappings(task: CallTask) -> list[tuple[int, int]]:
    """The mappings of `dst`, in pages."""
    found = task.call(calls.Smaps(DST.address, DST.address + DST.length)).result().vmas
    return [((v.start - DST.address) // PAGE, (v.end - DST.address) // PAGE) for v in found]


@pytest.mark.parametrize(
    ("text", "before", "since"),
    [
        ("0 mremap huge+0 1p 1p 3 huge+0", errno.EFAULT, errno.EINVAL),
        ("0 mremap drop+0 1p 1p 3 drop+0", errno.EFAULT, errno.EINVAL),
        ("0 mremap shanon+0 1p 0p+1 5 dst+0", errno.EINVAL, errno.EFAULT),
        ("0 map shanon; 0 mremap shanon+0 1p 0p+1 5 dst+0", errno.EINVAL, 0),
    ],
)
def test_what_is_checked_first(text: str, before: int, since: int) -> None:
    for profile in BEFORE_6_17:
        assert run(profile, text)[1].errno == before, profile
    for profile in SINCE_6_17:
        assert run(profile, text)[1].errno == since, profile


@pytest.mark.parametrize("profile", PROFILES)
def test_a_mapping_over_a_part_of_a_huge_page_is_enomem_on_6_1(profile: str) -> None:
    for text in ("replace huge+0 1p+1", "replace huge+0+4096 1p"):
        result = run(profile, f"0 map huge; 0 {text}")[1]
        assert result.errno == (errno.ENOMEM if profile == "6.1" else errno.EINVAL)
    assert run(profile, "0 map huge; 0 munmap huge+0 1p+1")[1].errno == errno.EINVAL


@pytest.mark.parametrize("profile", PROFILES)
def test_guest_memfd_is_no_ioctl_of_debians_kernels_before_6_18(profile: str) -> None:
    task = ModelCalls(PROFILES[profile]).process().tasks[0]
    device = task.call(calls.Open(calls.File.KVM, os.O_RDWR)).result()
    machine = task.call(calls.Ioctl(device.value, kvm.KVM_CREATE_VM)).result()
    argument = kvm.kvm_create_guest_memfd.struct.pack(PAGE, 0)
    made = task.call(calls.Ioctl(machine.value, kvm.KVM_CREATE_GUEST_MEMFD, argument)).result()

    assert made.errno == (errno.ENOTTY if profile in (*BEFORE_6_17, "6.17") else 0)


@pytest.mark.parametrize("profile", PROFILES)
def test_an_old_length_of_zero_makes_room_before_it_is_refused_to_6_12(profile: str) -> None:
    task, result = run(profile, "0 map dst; 0 mremap dst+0 0p 1p 3 dst+1")

    assert result.errno == errno.EINVAL
    assert mappings(task) == ([(0, 1), (2, 8)] if profile in BEFORE_6_17 else [(0, 8)])


@pytest.mark.parametrize("profile", PROFILES)
def test_a_move_to_nowhere_is_not_checked_further(profile: str) -> None:
    text = "0 uffd u0 0; 0 api u0 0; 0 map dst; 0 register u0 dst+0 1p 1; 0 mremap dst+0 4p 4p 0 0"

    assert run(profile, text)[1] == Result(DST.address)


@pytest.mark.parametrize("profile", PROFILES)
def test_a_failed_fill_of_6_1_leaves_the_mapping_as_it_was(profile: str) -> None:
    fill = "0 uffd u0 0; 0 api u0 0; 0 map anon; 0 map dst; 0 continue u0 anon+0 1p 0"
    task, result = run(profile, f"{fill}; 0 mremap anon+0 1p 1p 3 dst+0")

    assert result.ok
    assert mappings(task) == ([(0, 8)] if profile == "6.1" else [(0, 1), (1, 8)])


@pytest.mark.parametrize(
    ("move", "others", "on_6_18", "on_6_1"),
    [
        ("dst+0 1p 1p 7 dst+1", [(0, 1), (1, 8)], [(0, 8)], [(0, 1), (1, 2), (2, 8)]),
        ("dst+1 1p 1p 7 dst+0", [(0, 1), (1, 8)], [(0, 8)], [(0, 1), (1, 8)]),
        ("dst+0 1p 1p 7 dst+3", [(0, 3), (3, 8)], [(0, 8)], [(0, 3), (3, 4), (4, 8)]),
        ("dst+3 1p 1p 7 dst+2", [(0, 3), (3, 8)], [(0, 8)], [(0, 2), (2, 3), (3, 8)]),
    ],
)
def test_what_a_copy_that_leaves_its_source_joins(
    move: str,
    others: list[tuple[int, int]],
    on_6_18: list[tuple[int, int]],
    on_6_1: list[tuple[int, int]],
) -> None:
    for profile, expected in (
        ("6.1", on_6_1),
        ("6.12", others),
        ("6.18", on_6_18),
        ("7.2", others),
        ("7.3", others),
    ):
        task, result = run(profile, f"0 map dst; 0 mremap {move}")
        assert result.ok
        assert mappings(task) == expected, profile


@pytest.mark.parametrize("profile", PROFILES)
def test_a_place_that_is_taken_is_told_before_a_type_that_6_1_does_not_know(profile: str) -> None:
    taken = run(profile, "0 map shm; 0 mremap shm+0 1p 1p 3 drop+0; 0 map drop")[1]
    free = run(profile, "0 map drop")[1]

    assert taken.errno == errno.EEXIST
    assert free.errno == (errno.EINVAL if profile == "6.1" else 0)


@pytest.mark.parametrize("profile", PROFILES)
@pytest.mark.parametrize(
    ("case", "refusal", "leaves"),
    [
        ("no type", errno.EINVAL, True),
        ("read-only", errno.EACCES, True),
        ("sealed", errno.EPERM, True),
        ("pipe", errno.ENODEV, True),
        ("huge, within a page", errno.EINVAL, False),
    ],
)
def test_a_refused_mmap_has_looked_at_its_place_and_its_file_is_asked_when_that_is_clear(
    profile: str, case: str, refusal: int, leaves: bool
) -> None:
    task = ModelCalls(PROFILES[profile]).process().tasks[0]
    here = calls.place(1)

    def ask(flags: int, at: int = here) -> int:
        return task.call(_refused(task, case, at, flags)).result().errno

    def is_there() -> bool:
        return bool(task.call(calls.Smaps(here, here + PAGE)).result().vmas)

    assert ask(mman.MAP_FIXED_NOREPLACE) == refusal
    assert task.call(calls.Mmap(here, PAGE)).result().ok
    assert ask(mman.MAP_FIXED_NOREPLACE) == errno.EEXIST
    assert ask(mman.MAP_FIXED, here + 100) == errno.EINVAL
    assert is_there()
    assert ask(mman.MAP_FIXED) == refusal
    assert is_there() == leaves


def _refused(task: CallTask, case: str, at: int, flags: int) -> calls.Mmap:
    """An mmap(2) that cannot succeed."""
    if case == "no type":
        return calls.Mmap(at, PAGE, flags=flags | mman.MAP_ANONYMOUS)
    if case == "pipe":
        reader = calls.PIPE_FDS.struct.unpack(task.call(calls.Pipe()).result().data)[0]
        return calls.Mmap(at, PAGE, mman.PROT_READ, flags | mman.MAP_PRIVATE, reader)
    huge = mman.MFD_HUGETLB if case.startswith("huge") else 0
    fd = task.call(calls.MemfdCreate(huge | mman.MFD_ALLOW_SEALING)).result().value
    flags |= mman.MAP_SHARED
    if huge:
        return calls.Mmap(at, HUGE, flags=flags, fd=fd, offset=PAGE)
    if case == "sealed":
        seal = calls.Fcntl(fd, mman.F_ADD_SEALS, mman.F_SEAL_WRITE)
        assert task.call(seal).result().ok
    else:
        fd = task.call(calls.Reopen(fd, os.O_RDONLY)).result().value
    return calls.Mmap(at, PAGE, flags=flags, fd=fd)
