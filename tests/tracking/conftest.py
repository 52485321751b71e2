"""What the tests of tracking share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from helpers.leaks import nothing_left


@pytest.fixture(autouse=True)
def leaves_nothing() -> Iterator[None]:
    """No test leaves a descriptor or a thread."""
    with nothing_left():
        yield
