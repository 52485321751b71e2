"""Who waits for a time is done with it when that time has come, to the last bit."""

from __future__ import annotations

from typing import Any, cast

import pytest

from userfault.pager.drivers.mappings.served import Context
from userfault.pager.drivers.serving.timed import Children


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
