"""Live kernels for tests, taken down after each; without a compiler the tests are skipped."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import pytest

from helpers.world import PoolLock
from userfault.check.differential.pool import Pool
from userfault.check.live.kernel import LiveKernel
from userfault.check.words.thread import Thread, start
from userfault.kernel.errors import MemoryUnavailable

DEADLINE_S = 30.0


@pytest.fixture
def pool(agent: None, pool_lock: PoolLock) -> Iterator[Pool | None]:  # noqa: ARG001
    """Free huge pages for one program at a time, if this machine has any."""
    with contextlib.closing(Pool()) as pool:
        try:
            pool.fill_up()
        except MemoryUnavailable:
            yield None
            return
        yield pool


@pytest.fixture
def kernel(agent: None, leaks_nothing: None) -> Iterator[LiveKernel]:  # noqa: ARG001
    """The running kernel, for one program."""
    made = LiveKernel()
    try:
        yield made
    finally:
        made.close()


@pytest.fixture
def t(kernel: LiveKernel) -> Thread:
    """The first thread of a fresh live process."""
    return start(kernel, DEADLINE_S)
