"""One kernel of the lab, the newest; where it cannot be had the tests that boot are skipped."""

from __future__ import annotations

import pytest

from helpers.lab import newest_kernel
from userfault.lab.store import Kernel


@pytest.fixture(scope="session")
def kernel() -> Kernel:
    """The newest kernel, fetched if none is there."""
    return newest_kernel()
