"""A kernel without CONFIG_USERFAULTFD: nobody can open one, and all other memory is as with it."""

from __future__ import annotations

import errno
import os
import random

import pytest

from model.programs import setup, step
from userfault.kernel.calls import (
    HUGE,
    TASK_SIZE,
    Call,
    CallPending,
    CallTask,
    Dup,
    File,
    Ioctl,
    Open,
    Pagemap,
    Smaps,
    Sysctl,
    Userfaultfd,
)
from userfault.kernel.errors import OpenRefused
from userfault.kernel.protocol import State
from userfault.model.faces.calls import ModelCalls
from userfault.model.faces.kernel import ModelKernel
from userfault.model.profiles import PROFILES, Config
from userfault.model.tasks.strategies import Seeded

WITHOUT = Config(userfaultfd=False)


def test_the_system_call_the_device_and_the_sysctl_are_not_there() -> None:
    task = ModelCalls(config=WITHOUT).process().tasks[0]
    assert task.call(Userfaultfd(0)).result().errno == errno.ENOSYS
    assert task.call(Open(File.USERFAULTFD, os.O_RDWR)).result().errno == errno.ENOENT
    assert task.call(Sysctl("vm/unprivileged_userfaultfd")).result().errno == errno.ENOENT


def test_the_typed_protocol_says_that_the_call_is_missing() -> None:
    with pytest.raises(OpenRefused, match="ENOSYS") as refused:
        ModelKernel(config=WITHOUT).process().userfaultfd()
    assert refused.value.attempts == [("userfaultfd(2)", errno.ENOSYS)]


def _setup(draw: random.Random) -> list[Call]:
    """The usual one without registrations; the descriptors of a userfaultfd are others."""
    calls = [call for call in setup(draw) if not isinstance(call, Ioctl)]
    return [Dup(0) if isinstance(call, Userfaultfd) else call for call in calls]


def _step(draw: random.Random) -> Call:
    """One more call that is not made on a userfaultfd."""
    while isinstance(call := step(draw), Ioctl):
        pass
    return call


def _run(profile: str, seed: int, *, preempt: bool, userfaultfd: bool) -> tuple[object, ...]:
    """What a random program of three tasks sees, step by step, and what is mapped in the end."""
    draw = random.Random(seed)
    kernel = ModelCalls(
        PROFILES[profile],
        Config(userfaultfd=userfaultfd),
        scheduler=Seeded(seed) if preempt else None,
        trace=True,
        checking=True,
    )
    kernel.hugepages(HUGE, 8)
    process = kernel.process()
    tasks = [process.tasks[0], process.task(), process.task()]
    for call in _setup(draw):
        assert tasks[0].call(call).result().errno == 0
    pending: dict[CallTask, CallPending] = {}
    seen: list[object] = []
    for _ in range(60):
        idle = [t for t in tasks if t not in pending or pending[t].state is State.DONE]
        for task in idle[: 2 if preempt else 1]:
            pending[task] = task.call(_step(draw))
        kernel.settle()
        for one in pending.values():
            seen.append(one.result() if one.state is State.DONE else one.waits_for)
    (mappings,) = process.look([Smaps(0, TASK_SIZE)])
    vmas = mappings.result().vmas
    words = process.look([Pagemap(vma.start, vma.end - vma.start) for vma in vmas])
    trace = kernel.machine.sched.trace
    result = (seen, trace, vmas, [word.result().data for word in words])
    kernel.close()
    return result


@pytest.mark.parametrize("preempt", [False, True])
@pytest.mark.parametrize("profile", PROFILES)
def test_programs_that_use_no_userfaultfd_are_the_same(profile: str, preempt: bool) -> None:
    for seed in range(3):
        without = _run(profile, seed, preempt=preempt, userfaultfd=False)
        assert without == _run(profile, seed, preempt=preempt, userfaultfd=True)
