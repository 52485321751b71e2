"""The knobs: defaults that hold together, and refusals that say what is wrong."""

from __future__ import annotations

from typing import Any

import pytest

from userfault.kernel.errors import UsageError
from userfault.pager.core.plan import Plan
from userfault.pager.core.policy import Policy


def test_the_defaults_are_legal() -> None:
    policy = Policy()
    assert policy.background
    assert policy.on_failure == "poison"


@pytest.mark.parametrize(
    "wrong",
    [
        {"window_bytes": 0},
        {"chunk_bytes": 0},
        {"fetches": 0},
        {"retries": -1},
        {"deadline_s": 0.0},
        {"deadline_s": -1.0},
        {"patience_s": 0.0},
        {"on_failure": "ignore"},
        {"on_exit": "hang"},
    ],
    ids=str,
)
def test_a_value_that_cannot_work_is_refused_with_a_cure(wrong: dict[str, Any]) -> None:
    with pytest.raises(UsageError) as caught:
        Policy(**wrong)
    assert caught.value.cause
    assert caught.value.cure


@pytest.mark.parametrize("value", ["poison", "kill"])
def test_both_answers_to_a_failing_source_are_legal(value: str) -> None:
    assert Policy(on_failure=value).on_failure == value


def test_no_retry_is_legal() -> None:
    assert Policy(retries=0).retries == 0


@pytest.mark.parametrize(("page_size", "pages"), [(4096, 64), (2 << 20, 1), (1 << 30, 1)])
def test_a_window_is_at_least_one_page_of_any_size(page_size: int, pages: int) -> None:
    plan = Plan(0, page_size, Policy())
    assert plan.window_pages == plan.chunk_pages == pages
    assert 1 << plan.shift == page_size
