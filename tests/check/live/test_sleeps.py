"""What a task waits for, by the kernel function that it sleeps in."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from userfault.check.live import sleeps as module
from userfault.check.live.sleeps import Sleeps
from userfault.kernel import calls

CALL = "a call"


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """The time, by hand."""
    made = SimpleNamespace(now=100.0)
    monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: made.now))
    return made


def test_a_wait_for_userfaultfd_is_known_at_once() -> None:
    assert Sleeps().waits_for(CALL, "handle_userfault") == calls.WAITS_FAULT
    assert Sleeps().waits_for(CALL, "userfaultfd_event_wait_completion") == calls.WAITS_EVENT


def test_a_task_that_runs_waits_for_nothing() -> None:
    assert Sleeps().waits_for(CALL, "") == ""


def test_a_wait_with_another_name_counts_once_it_has_lasted(clock: SimpleNamespace) -> None:
    sleeps = Sleeps()
    assert sleeps.waits_for(CALL, "some_lock") == ""
    clock.now += 1
    assert sleeps.waits_for(CALL, "some_lock") == "some_lock"
    assert sleeps.waits_for("another call", "some_lock") == ""


def test_it_has_lasted_only_if_the_task_was_nowhere_else_meanwhile(clock: SimpleNamespace) -> None:
    sleeps = Sleeps()
    for wchan in ("some_lock", "another_lock", "", "another_lock"):
        assert sleeps.waits_for(CALL, wchan) == ""
        clock.now += 1
    assert sleeps.waits_for(CALL, "another_lock") == "another_lock"


def test_what_ends_by_itself_never_counts(clock: SimpleNamespace) -> None:
    sleeps = Sleeps()
    for _ in range(3):
        assert sleeps.waits_for(CALL, "__synchronize_srcu.part.0") == ""
        clock.now += 60
