"""What the tests of the machine share: KVM, and nothing left behind."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from helpers.leaks import nothing_left
from helpers.skips import need_kvm


@pytest.fixture(autouse=True)
def leaves_nothing() -> Iterator[None]:
    """No test leaves a descriptor or a thread."""
    with nothing_left():
        yield


@pytest.fixture
def kvm() -> None:
    """A test that runs a guest."""
    need_kvm()
