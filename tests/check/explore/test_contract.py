"""The contract of a memory type: ours keep it, and each planted breach is found by its rule."""

from __future__ import annotations

import msgspec
import pytest
from msgspec.structs import replace

from model.memtypes import breaches
from userfault.check.explore.contract.trying import again, tried
from userfault.check.explore.strategies.replay import parse
from userfault.kernel.errors import UsageError
from userfault.model.memtypes.guest_memfd import GUEST_MEMFD
from userfault.model.memtypes.hugetlb import HUGETLB
from userfault.model.memtypes.ops import Facts, MemoryOps
from userfault.model.memtypes.shmem import SHMEM
from userfault.model.profiles import NEXT

_RULES = (
    [(name, 2) for name in breaches.LOOKUPS]
    + [(name, 4) for name in breaches.ADDS]
    + [(name, 3) for name in breaches.ALLOCS]
)


@pytest.mark.parametrize("ops", [SHMEM, HUGETLB, GUEST_MEMFD], ids=lambda ops: ops.name)
def test_our_types_keep_it_under_every_schedule(ops: MemoryOps) -> None:
    found = list(tried(ops, NEXT))
    assert {each.rule for each in found} >= {1, 2, 4, 5, 6, 8, 9, 10}
    assert all(each.exhausted and each.holds and each.breach is None for each in found)


@pytest.mark.parametrize("design", ["merged", "closed_choice", "per_operation", "uffd_copy"])
def test_ours_keeps_it_where_nobody_looks_at_hooks(design: str) -> None:
    found = list(tried(GUEST_MEMFD, NEXT, design))
    assert {each.rule for each in found} >= {1, 2, 4, 5, 6, 7, 8, 9, 10}
    assert all(each.exhausted and each.holds for each in found)


def test_the_hooks_of_march_2026_break_the_rules_that_a_kernel_with_them_breaks() -> None:
    found = list(tried(GUEST_MEMFD, NEXT, "posted"))

    assert {each.breach.rule for each in found if each.breach is not None} == {2, 4, 6, 7}
    assert {each.rule for each in found if not each.holds} == {2, 4, 6, 7}
    others = [each for each in found if each.rule in (1, 5, 8, 9, 10)]
    assert len(others) == 5
    assert all(each.holds and each.exhausted for each in others)  # the other rule left aside
    beyond = [each.breach for each in tried(SHMEM, NEXT, "posted") if each.breach is not None]
    assert {breach.rule for breach in beyond} == {7}


def test_a_breach_has_a_line_that_shows_it_again() -> None:
    found = next(each for each in tried(GUEST_MEMFD, NEXT, "posted") if each.rule == 7)
    assert found.breach is not None
    assert found.breach.timeline is not None

    told = again(GUEST_MEMFD, parse(found.breach.timeline.line))
    assert told == found.breach.timeline
    assert told.violation is not None

    with pytest.raises(UsageError, match="no scenario of the contract is called 'build'"):
        again(GUEST_MEMFD, msgspec.structs.replace(parse(told.line), scenario="build"))


@pytest.mark.parametrize(("name", "rule"), _RULES)
def test_a_planted_breach_is_named_by_its_rule_and_steps(name: str, rule: int) -> None:
    breaches.KERNEL[:] = []
    broken = next(ops for ops in breaches.types() if ops.name == name)
    found = [each.breach for each in tried(broken, NEXT) if each.breach is not None]
    assert {breach.rule for breach in found} == {rule}
    assert all(breach.timeline is not None and breach.timeline.rows for breach in found)


def test_a_type_that_decides_differently_the_second_time_breaks_the_first_rule() -> None:
    answers: list[bool] = []

    def moody(facts: Facts) -> bool:
        del facts
        answers.append(len(answers) % 2 == 0)
        return answers[-1]

    found = next(tried(replace(SHMEM.with_uffd(can_userfault=moody), name="moody"), NEXT))
    assert found.breach is not None
    assert found.breach.rule == 1


NOTHING = MemoryOps(name="nothing")


def test_what_cannot_be_asked_is_said() -> None:
    with pytest.raises(UsageError, match="nothing to check"):
        list(tried(NOTHING, NEXT))
    refusing = replace(SHMEM.with_uffd(can_userfault=lambda _: False), name="refusing")
    with pytest.raises(UsageError, match="cannot register 'refusing'"):
        list(tried(refusing, NEXT))
    with pytest.raises(UsageError, match="nothing to check of 'guest_memfd'"):
        list(tried(GUEST_MEMFD, NEXT, "hardcoded"))
