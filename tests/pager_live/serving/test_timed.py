"""Who waits for a time is done with it when that time has come, to the last bit."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from userfault.pager.drivers.mappings.served import Context
from userfault.pager.drivers.serving.timed import Children, Timed


class Child:
    """What is asked of a child's context: whether its memory has gone."""

    def __init__(self) -> None:
        self.uffd = self
        self.asked = 0

    def owner_gone(self) -> bool:
        self.asked += 1
        return False


@pytest.mark.parametrize("since", [7.161245236, 3.853130871, 7.672132833, 32767.891409137])
def test_children_are_asked_at_the_time_that_was_told(since: float) -> None:
    """Else a loop whose clock stands still asks for ever: x + 1 - x may be less than 1."""
    child = Child()
    children = Children({}, cast(Any, None))
    children.add(cast(Context, child))
    children.tick(since)
    child.asked = 0

    when = children.next_time()
    assert when is not None
    children.tick(when)

    assert child.asked
    later = children.next_time()
    assert later is not None
    assert later > when


class Waits:
    """A context as far as it waits: `when` is what its core says."""

    def __init__(self, acted: list[Waits]) -> None:
        self.core = self
        self.served = None
        self.closed = False
        self.when: float | None = None
        self.acted = acted

    def next_time(self) -> float | None:
        return self.when

    def tick(self, now: float) -> None:
        assert self.when is not None
        assert self.when <= now
        self.acted.append(self)
        self.when = None


class Acts:
    """Performs nothing, as the cores ask for nothing."""

    @contextlib.contextmanager
    def costs(self, _: object) -> Iterator[None]:
        yield

    def perform(self, _: object) -> None:
        """Nothing is asked for."""


def test_who_is_found_to_have_ended_meanwhile_hears_of_no_time() -> None:
    acted: list[Waits] = []
    first, second = Waits(acted), Waits(acted)
    first.when, second.when = 1.0, 2.0

    class Ends(Acts):
        def perform(self, _: object) -> None:
            second.closed = True

    timed = Timed({}, cast(Any, Ends()))
    timed.add(cast(Any, first))
    timed.add(cast(Any, second))
    timed.tick(3.0)

    assert acted == [first]
    assert timed.next_time() is None


_CHANGES = st.lists(
    st.one_of(
        st.tuples(st.just("says"), st.integers(0, 4), st.none() | st.integers(1, 20)),
        st.tuples(st.just("goes"), st.integers(0, 4), st.none()),
        st.tuples(st.just("time"), st.integers(0, 20), st.none()),
    ),
    max_size=40,
)


@given(_CHANGES)
def test_each_hears_of_its_time_when_it_has_come_and_never_before(
    changes: list[tuple[str, int, int | None]],
) -> None:
    """Whatever it had said before, and whoever has gone since."""
    acted: list[Waits] = []
    contexts = [Waits(acted) for _ in range(5)]
    timed = Timed({}, cast(Any, Acts()))
    now = 0.0
    for what, number, value in changes:
        if what == "time":
            now += number
            due = [each for each in contexts if each.when is not None and each.when <= now]
            acted.clear()
            timed.tick(now)
            assert sorted(map(id, acted)) == sorted(map(id, due))
        elif what == "goes":
            contexts[number].when = None
            timed.discard(cast(Any, contexts[number]))
        else:
            contexts[number].when = None if value is None else now + value
            timed.add(cast(Any, contexts[number]))
        waits = [each.when for each in contexts if each.when is not None]
        assert timed.next_time() == min(waits, default=None)
