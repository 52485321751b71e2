"""Random programs on the model: every invariant after every step, and the same run for a seed."""

from __future__ import annotations

import random

import pytest

from model.programs import setup, step
from userfault.kernel.calls import HUGE, CallPending, CallTask, Result
from userfault.kernel.protocol import State
from userfault.model.faces.calls import ModelCalls
from userfault.model.profiles import PROFILES
from userfault.model.tasks.strategies import Seeded

SEEDS = range(30)


def run(profile: str, seed: int, *, preempt: bool, steps: int = 60) -> tuple[list[object], object]:
    """Three tasks of one process do random calls; `check()` runs whenever they have settled."""
    draw = random.Random(seed)
    kernel = ModelCalls(
        PROFILES[profile],
        scheduler=Seeded(seed) if preempt else None,
        trace=True,
        checking=True,
    )
    kernel.hugepages(HUGE, 8)
    process = kernel.process()
    tasks = [process.tasks[0], process.task(), process.task()]
    for call in setup(draw):
        tasks[0].call(call).result()
    pending: list[tuple[CallTask, CallPending]] = []
    for _ in range(steps):
        idle = [
            task
            for task in tasks
            if all(done.state is State.DONE for owner, done in pending if owner is task)
        ]
        for task in idle[: 2 if preempt else 1]:
            pending.append((task, task.call(step(draw))))
        kernel.settle()
    results: list[object] = [
        done.result() if done.state is State.DONE else done.waits_for for _, done in pending
    ]
    trace = kernel.machine.sched.trace
    kernel.close()
    return results, trace


@pytest.mark.parametrize("profile", PROFILES)
@pytest.mark.parametrize("seed", SEEDS)
def test_no_invariant_breaks_whatever_is_called(profile: str, seed: int) -> None:
    results, _ = run(profile, seed, preempt=False)
    assert any(isinstance(result, Result) and result.ok for result in results)


@pytest.mark.parametrize("seed", SEEDS)
def test_no_invariant_breaks_whoever_is_preempted(seed: int) -> None:
    results, _ = run("next", seed, preempt=True)
    assert results


def test_the_same_seed_is_the_same_run() -> None:
    first = run("next", 7, preempt=True)
    assert run("next", 7, preempt=True) == first
    assert run("next", 8, preempt=True) != first
