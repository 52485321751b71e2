"""One kernel of the lab, the newest; where it cannot be had the tests that boot are skipped."""

from __future__ import annotations

import pytest

from helpers.skips import absent
from userfault.kernel.errors import UserfaultError
from userfault.lab.machine import install_qemu
from userfault.lab.store import Kernel, Store
from userfault.lab.suites import suite

NEWEST = "trixie-backports"


@pytest.fixture(scope="session")
def kernel() -> Kernel:
    """The newest kernel, fetched if none is there."""
    store = Store()
    try:
        install_qemu()
        known = [found for found in store.kernels() if found.suite == NEWEST]
        return known[0] if known else store.fetch(suite(NEWEST))
    except UserfaultError as error:
        absent(str(error))
