"""The same guest on the running kernel and on the model: step for step the same log."""

from __future__ import annotations

import os
import re

import pytest

from helpers.world import pool_for
from userfault.kernel.errors import UsageError
from userfault.kernel.memtypes import BASE_PAGE, memory
from userfault.model.profiles import LINUX_6_18, NEXT, PROFILES, Profile
from userfault.vmm.content import words
from userfault.vmm.program import Walk
from userfault.vmm.stepped.interpreter import Interpreter, UndefinedInstructionError
from userfault.vmm.stepped.live import LiveHost
from userfault.vmm.stepped.modelled import ModelHost
from userfault.vmm.stepped.script import Plan, run

KVM = pytest.mark.usefixtures("kvm")
BOTH = pytest.mark.parametrize("user", [True, False], ids=["user", "kernel"])
STEPS = 40


def plan(kind: str, way: str, *, user: bool, cpus: int = 1) -> Plan:
    """Walks of two CPUs begin on the same page."""
    of = memory(kind)
    pages = 4 if of.page_size > BASE_PAGE else 12
    small = pages * of.page_size // BASE_PAGE
    walks = (
        Walk(small, steps=STEPS, pattern="random", seed=0, write=way == "wp"),
        Walk(small, steps=STEPS, pattern="random", seed=0),
    )
    return Plan(of, pages, walks[:cpus], way, user)


def running() -> Profile:
    """That of the kernel that runs, or of the newest before it."""
    number = tuple(int(part) for part in re.findall(r"\d+", os.uname().release)[:2])
    older = [each for each in PROFILES.values() if each is not NEXT and each.release <= number]
    return max(older, key=lambda each: each.release, default=LINUX_6_18)


CASES = [
    (kind, way, cpus)
    for kind in ("anon", "shmem", "shmem-private", "hugetlb", "hugetlb-private")
    for way in ("missing", "minor", "wp")
    for cpus in (1, 2)
    # Private memory without a file has no minor faults; two that write would race.
    if not (way == "minor" and kind in ("anon", "hugetlb-private")) and (way, cpus) != ("wp", 2)
]


@KVM
@BOTH
@pytest.mark.parametrize(("kind", "way", "cpus"), CASES)
def test_a_guest_is_served_alike_on_both_kernels(
    kind: str, way: str, cpus: int, user: bool
) -> None:
    what = plan(kind, way, user=user, cpus=cpus)
    with pool_for(kind):
        live = run(LiveHost(), what)

    assert live == run(ModelHost(running()), what)
    done = [line for line in live if "done" in line]
    assert done == [f"CPU {at}: done, {sum_of(walk):#x}" for at, walk in enumerate(what.walks)]
    assert len(live) > 2 + cpus + 2  # there were faults
    assert not any("CHANGED" in line for line in live)


def sum_of(walk: Walk) -> int:
    return walk.checksum(words)


@KVM
@BOTH
def test_two_cpus_that_fault_on_one_page_go_on_by_one_fill(user: bool) -> None:
    log = run(LiveHost(), plan("anon", "missing", user=user, cpus=2))

    filled = [line.removeprefix("CPU 0: ") for line in log if line.startswith("CPU 0: page")]
    waited = [line.removeprefix("CPU 1: ") for line in log if line.startswith("CPU 1: page")]
    assert len(filled) == 12
    assert waited == [line.replace("UFFDIO_COPY", "resolved already") for line in filled]


@KVM
@BOTH
@pytest.mark.parametrize("way", ["missing", "minor"])
def test_a_guest_memfd_is_filled_before_on_kernels_that_do_not_register_it(
    way: str, user: bool
) -> None:
    what = plan("guest_memfd", way, user=user)
    live = run(LiveHost(), what)

    assert live == run(ModelHost(LINUX_6_18), what)
    assert "EINVAL" in live[1]
    assert live[2:] == [
        "all 12 pages filled through the mapping, before the run",
        f"CPU 0: done, {sum_of(what.walks[0]):#x}",
    ]


def test_a_guest_memfd_in_user_mode_exits_and_its_pages_are_continued() -> None:
    what = plan("guest_memfd", "minor", user=True)
    log = run(ModelHost(), what)

    order = list(dict.fromkeys(page for page, _ in what.walks[0].touched()))
    assert log[2:] == [
        line
        for page in order
        for line in (
            f"CPU 0: exit to the machine, nothing at page {page}",
            f"page {page} written into the file",
            f"machine: page {page}, MINOR: UFFDIO_CONTINUE",
        )
    ] + [f"CPU 0: done, {sum_of(what.walks[0]):#x}"]


def test_a_guest_memfd_in_kernel_mode_is_served_as_shmem_is() -> None:
    logs = [run(ModelHost(), plan(kind, "minor", user=False)) for kind in ("guest_memfd", "shmem")]

    assert logs[0][2:] == logs[1][2:]


@BOTH
def test_the_ways_of_a_guest_memfd_end_with_one_sum(user: bool) -> None:
    for way in ("missing", "minor", "wp"):
        what = plan("guest_memfd", way, user=user)
        assert run(ModelHost(), what)[-1] == f"CPU 0: done, {sum_of(what.walks[0]):#x}"


def test_minor_faults_without_a_file_are_refused() -> None:
    with pytest.raises(UsageError, match="no file behind it"):
        run(ModelHost(), plan("anon", "minor", user=True))


def test_the_interpreter_knows_the_programs_and_nothing_else() -> None:
    def interpreter(code: bytes, at: int = 0) -> Interpreter:
        return Interpreter(code, {"rip": at}, lambda _: 0, lambda _, __: None)

    for code in (b"\x0f\x0b", b"\x48\x8b\x04\x24", b"\x48\xc1\xe8\x01", b"\x48", b""):
        with pytest.raises(UndefinedInstructionError):
            interpreter(code).run()
    with pytest.raises(UndefinedInstructionError):
        interpreter(b"\xeb\x7f").run()
