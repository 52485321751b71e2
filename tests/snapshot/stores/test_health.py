"""Whether a store answers: it is left alone for a time that grows, and tried by one read."""

from __future__ import annotations

import pytest

from userfault.snapshot.stores import health
from userfault.snapshot.stores.health import Health


class Clock:
    """A clock that stands still until the test moves it."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """What `Health` takes for the time."""
    found = Clock()
    monkeypatch.setattr(health, "time", found)
    return found


def test_a_store_is_left_for_a_time_that_grows_and_tried_by_one_read(clock: Clock) -> None:
    one = Health()
    for left in (2, 4, 8, 16, 32, 60, 60):
        began = clock.now
        assert one.try_it()
        one.failed(began)
        clock.now += left - 0.01
        assert not one.usable()
        assert not one.try_it()
        clock.now += 0.01
        assert one.usable()
    assert [one.try_it() for _ in range(3)] == [True, False, False]
    one.heard()
    assert [one.try_it() for _ in range(3)] == [True, True, True]
    one.failed(clock.now + 0.01)
    clock.now += 2
    assert one.usable()


def test_a_store_that_is_late_is_left_only_when_it_says_nothing_for_a_second(clock: Clock) -> None:
    one = Health()
    one.overtaken(clock.now)
    clock.now += 0.9
    assert one.try_it()
    one.heard()
    clock.now += 5
    assert one.try_it()
    one.overtaken(clock.now)
    clock.now += 1
    assert not one.try_it()


def test_a_failure_among_answers_says_nothing_of_the_store(clock: Clock) -> None:
    one = Health()
    began = clock.now
    clock.now += 1
    one.heard()
    one.failed(began)
    assert one.usable()
    for _ in range(5):  # at once: that is one failure, not five
        one.failed(clock.now + 0.1)
    clock.now += 2
    assert one.usable()
