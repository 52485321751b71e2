"""The kernels that statements can be run on."""

from __future__ import annotations

import msgspec

from userfault.check.live.agent.build import agent_path
from userfault.check.live.kernel import LiveKernel, live_kernel
from userfault.check.run import KernelFactory
from userfault.model.faces.calls import ModelCalls
from userfault.model.profiles import NEXT, Config, profile_named


class Factory(msgspec.Struct, frozen=True):
    """How to make a kernel, and what it is called in reports."""

    name: str
    make: KernelFactory


def live() -> Factory:
    """The running kernel.  Raises NoAgent where the agent cannot be built."""
    agent_path()
    return Factory(LiveKernel().name, live_kernel)


def model(profile: str | None = None, design: str | None = None) -> Factory:
    """The model of a release (of `next` without one), which walks its invariants as it goes.

    `design`: how its core asks memory types (one of `userfault.model.designs`).
    """
    wanted = profile_named(profile or NEXT.name)
    config = Config(design=design) if design else Config()
    name = ModelCalls(wanted, config).name
    return Factory(name, lambda: ModelCalls(wanted, config, checking=True))
