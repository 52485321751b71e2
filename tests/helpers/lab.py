"""A kernel of the lab, for the tests that boot one."""

from __future__ import annotations

from helpers.skips import absent
from userfault.kernel.errors import UserfaultError
from userfault.lab.machine import install_qemu
from userfault.lab.store import Kernel, Store
from userfault.lab.suites import suite

NEWEST = "trixie-backports"


def newest_kernel() -> Kernel:
    """The newest one, fetched if none is there; without it the test is skipped."""
    store = Store()
    try:
        install_qemu()
        known = [found for found in store.kernels() if found.suite == NEWEST]
        return known[0] if known else store.fetch(suite(NEWEST))
    except UserfaultError as error:
        absent(str(error))
