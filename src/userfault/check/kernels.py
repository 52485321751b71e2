"""The kernels that statements can be run on."""

from __future__ import annotations

import msgspec

from userfault.check.agent.build import agent_path
from userfault.check.live import LiveKernel, live_kernel
from userfault.check.run import KernelFactory


class Factory(msgspec.Struct, frozen=True):
    """How to make a kernel, and what it is called in reports."""

    name: str
    make: KernelFactory


def live() -> Factory:
    """The running kernel.  Raises NoAgent where the agent cannot be built."""
    agent_path()
    return Factory(LiveKernel().name, live_kernel)
