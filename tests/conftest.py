"""Fixtures of every room: a world of live memory, taken down after each test.

What may be absent on a machine is skipped through `helpers.skips`, which prints the reason and
fails instead when USERFAULT_FORBID_SKIPS=1.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest
from hypothesis import settings

from helpers.leaks import nothing_left
from helpers.skips import absent
from helpers.world import PoolLock, World
from userfault.check.live.agent.build import NoAgent, agent_path

# A shell starts what it runs in the background deaf to these, and the children of a test would be:
# those that are to end by Ctrl-C would not.
for _number in (signal.SIGINT, signal.SIGQUIT, signal.SIGHUP):
    if signal.getsignal(_number) is signal.SIG_IGN:
        signal.signal(
            _number,
            signal.default_int_handler if _number == signal.SIGINT else signal.SIG_DFL,
        )


# An example takes as long as the machine is busy: what hangs is a matter of pytest's time limit.
settings.register_profile("house", deadline=None)
settings.load_profile("house")


@pytest.fixture
def leaks_nothing() -> Iterator[None]:
    """Fail the test where it leaves descriptors, threads or faulting tasks behind."""
    with nothing_left():
        yield


@pytest.fixture
def pool_lock() -> Iterator[PoolLock]:
    """The hugetlb pools for this test alone, which starts a command that grows them."""
    with PoolLock() as lock:
        yield lock


@pytest.fixture
def world(leaks_nothing: None) -> Iterator[World]:  # noqa: ARG001  # taken down before it looks
    """The live kernel and what the test makes on it."""
    made = World()
    try:
        yield made
    finally:
        made.close()


@pytest.fixture
def agent() -> None:
    """The agent can be built here."""
    try:
        agent_path()
    except NoAgent as error:
        absent(str(error))
