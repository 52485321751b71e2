"""What is a number, whoever made it, becomes exactly Python's; what is none is refused by name."""

from __future__ import annotations

import decimal
import enum
import fractions
from typing import Any

import numpy as np
import pytest

from userfault import UsageError
from userfault.kernel.memtypes import Memory, memory
from userfault.kernel.numbers import flag, is_number, one_of, real, whole
from userfault.pager.core.placing import Placing
from userfault.pager.core.policy import Policy


class Five(enum.IntEnum):
    """An int that is not exactly one."""

    FIVE = 5


class Index:
    """A number of somebody else's."""

    def __index__(self) -> int:
        return 5


class Weight:
    """A real number of somebody else's."""

    def __float__(self) -> float:
        return 5.0


def policy(**knobs: Any) -> Policy:
    """With numbers that are not Python's."""
    return Policy(**knobs)


def placing(cpu: Any, poll_budget: Any = 0.5) -> Placing:
    """The same."""
    return Placing(cpu, poll_budget)


def sized(name: Any, page_size: Any = None) -> Memory:
    """The same."""
    return memory(name, page_size)


WHOLE = [5, Five.FIVE, np.int8(5), np.uint64(5), np.array(5), Index()]
REAL = [*WHOLE, 5.0, np.float16(5), np.float64(5), np.longdouble(5), Weight()]
REAL += [decimal.Decimal(5), fractions.Fraction(5)]


@pytest.mark.parametrize("value", WHOLE, ids=lambda value: type(value).__name__)
def test_whole_numbers_are_taken_as_exactly_int(value: Any) -> None:
    found = whole("length", value)
    assert (found, type(found)) == (5, int)


@pytest.mark.parametrize(
    "value", [5.0, np.float64(5), "5", b"5", None, np.array([5, 6]), 1 << 63, -(1 << 64)], ids=repr
)
def test_what_is_no_whole_number_is_refused_by_name(value: Any) -> None:
    with pytest.raises(UsageError, match="length=") as caught:
        whole("length", value)
    assert caught.value.cause
    assert caught.value.cure


@pytest.mark.parametrize("value", REAL, ids=lambda value: type(value).__name__)
def test_real_numbers_are_taken_as_exactly_float(value: Any) -> None:
    found = real("timeout", value)
    assert (found, type(found)) == (5.0, float)


@pytest.mark.parametrize(
    "value",
    ["5", b"5", None, 5j, np.complex64(5), np.complex128(5), np.array([5.0]), float("nan"),
     np.float32("nan"), 10**400],
    ids=lambda value: repr(value)[:20],
)  # fmt: skip
def test_what_is_no_real_number_is_refused_by_name(value: Any) -> None:
    with pytest.raises(UsageError, match="timeout=") as caught:
        real("timeout", value)
    assert caught.value.cause
    assert caught.value.cure


@pytest.mark.parametrize("value", [True, np.bool_(True), 1, np.int64(1), np.array(True)], ids=repr)
def test_what_equals_true_is_true(value: Any) -> None:
    assert flag("writable", value) is True


@pytest.mark.parametrize("value", [False, np.bool_(False), 0, np.int64(0)], ids=repr)
def test_what_equals_false_is_false(value: Any) -> None:
    assert flag("writable", value) is False


@pytest.mark.parametrize("value", ["no", "", None, [], 2, 0.5, np.array([True, False])], ids=repr)
def test_what_is_neither_true_nor_false_is_refused(value: Any) -> None:
    with pytest.raises(UsageError, match="writable="):
        flag("writable", value)


def test_texts_of_other_types_become_plain() -> None:
    assert type(one_of("on_exit", np.str_("poison"), ("complete", "poison"))) is str
    for wrong in (None, 5, np.str_("shrug")):
        with pytest.raises(UsageError, match="complete or poison"):
            one_of("on_exit", wrong, ("complete", "poison"))


def test_an_array_is_no_number() -> None:
    assert all(map(is_number, (5, np.int64(5), Index())))
    assert not any(map(is_number, (np.array(5), np.array([5]), "5", 5.0)))


@pytest.mark.parametrize("name", ["window_bytes", "chunk_bytes", "retries", "fetches"])
def test_every_whole_number_of_a_policy_may_be_numpys(name: str) -> None:
    assert type(getattr(policy(**{name: np.int32(7)}), name)) is int
    with pytest.raises(UsageError, match=name):
        policy(**{name: 1.5})


@pytest.mark.parametrize("name", ["deadline_s", "patience_s", "fault_deadline_s"])
def test_every_time_of_a_policy_may_be_numpys(name: str) -> None:
    assert type(getattr(policy(**{name: np.float32(7)}), name)) is float
    for wrong in ("7", 0, float("nan")):
        with pytest.raises(UsageError, match=name):
            policy(**{name: wrong})


def test_the_other_knobs_of_a_policy_are_made_plain_too() -> None:
    made = policy(background=np.bool_(False), on_exit=np.str_("poison"))
    assert made.background is False
    assert type(made.on_exit) is str
    with pytest.raises(UsageError, match="background"):
        policy(background="no")


def test_where_a_pager_runs_may_be_numpys() -> None:
    made = placing(np.int64(0), np.float32(0.25))
    assert (type(made.cpu), type(made.poll_budget)) == (int, float)
    assert type(placing(np.str_("any")).cpu) is str
    for wrong in (True, 1.0, None, "first", -1, 1 << 40):
        with pytest.raises(UsageError, match="cpu="):
            placing(wrong)


def test_a_page_size_may_be_numpys() -> None:
    assert type(sized("hugetlb", np.int64(2 << 20)).page_size) is int
    for wrong in (0, "2M", 2.0):
        with pytest.raises(UsageError):
            sized("hugetlb", wrong)
    with pytest.raises(UsageError, match="no memory type"):
        sized(None)
