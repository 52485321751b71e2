"""Live kernels for tests, taken down after each; without a compiler the tests are skipped."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from helpers.skips import absent
from userfault.check.agent.build import NoAgent, agent_path
from userfault.check.live import LiveKernel
from userfault.check.thread import Thread, start

DEADLINE_S = 30.0


@pytest.fixture
def agent() -> None:
    """The agent can be built here."""
    try:
        agent_path()
    except NoAgent as error:
        absent(str(error))


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
