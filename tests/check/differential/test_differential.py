"""Differential runs: programs as text, drawing, comparing, shrinking, counting."""

from __future__ import annotations

import errno
import math
import random

import msgspec
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from userfault.check.differential import coverage
from userfault.check.differential.batch import Batch, Finding, Runner, each, seeds
from userfault.check.differential.draw import program
from userfault.check.differential.found import kernels, profile_of
from userfault.check.differential.pool import Pool
from userfault.check.differential.program import Program, from_text, to_text
from userfault.check.differential.schedules import Scripted, others
from userfault.kernel.errors import Unavailable, UsageError
from userfault.model.errors import Errno
from userfault.model.faces.calls import ModelCalls, ModelProcess
from userfault.model.profiles import LINUX_6_18, LINUX_7_3, Config, Profile
from userfault.model.tasks.sched import Scheduler
from userfault.model.tasks.strategies import Seeded
from userfault.uapi.userfaultfd import uffd_msg

# In parts: each has the hugetlb pools for itself, and others wait for them.
SMOKE_PROGRAMS = 2000
SMOKE_PARTS = 8
SMOKE_SEED = 20_251_123


@st.composite
def programs(draw: st.DrawFn) -> Program:
    """The same choices, made by Hypothesis: they shrink to 0, the simplest."""
    return program(lambda below: draw(st.integers(0, below - 1)), huge=False)


@pytest.fixture
def runner(pool: Pool | None) -> Runner:
    """This kernel and its model."""
    try:
        return Runner(*kernels(), pool)
    except Unavailable as error:
        pytest.skip(str(error))


def test_a_program_is_what_its_text_says() -> None:
    draw = random.Random(1)
    for _ in range(200):
        drawn = program(draw.randrange)
        assert from_text(to_text(drawn)) == drawn


@pytest.mark.parametrize("text", ["map", "x load anon+0", "0", "0 load nothing+0"])
def test_what_is_no_program_is_refused(text: str) -> None:
    with pytest.raises(UsageError):
        from_text(text)


def test_a_seed_is_a_run() -> None:
    batches = list(seeds(7, 4500, huge=True))
    assert [batch.programs for batch in batches] == [2000, 2000, 500]
    assert batches == list(seeds(7, 4500, huge=True))
    assert len({batch.seed for batch in batches}) == 3
    small = Batch(20, batches[0].seed)
    assert list(each(small)) == list(each(small))


def test_programs_are_long_enough_and_reach_everything() -> None:
    found = coverage.Coverage()
    drawn = list(each(Batch(4000, 1)))
    for one in drawn:
        for step in one:
            found.reached(step)
    assert sum(map(len, drawn)) / len(drawn) >= 15
    assert found.never() == []


def test_a_kernel_newer_than_every_profile_gets_the_latest() -> None:
    assert profile_of((6, 18)) is LINUX_6_18
    assert profile_of((8, 1)) is LINUX_7_3
    with pytest.raises(Unavailable):
        profile_of((5, 4))


# --- Two kernels that differ: a model and another one ---------------------------------------------

_BEGIN = "0 uffd u0; 0 api u0 0; 0 map shm; 0 register u0 shm+0 8p 1; 0 truncate m 1p"
_BEYOND_EOF = f"{_BEGIN}; 0 load anon+0; 0 map src; 0 fork; 0 copy u0 shm+4 src+0 1p 0; 0 fork"


def _two_profiles() -> Runner:
    other = msgspec.structs.replace(LINUX_6_18, copy_beyond_eof=errno.ENOMEM)
    return Runner(
        lambda: ModelCalls(LINUX_6_18, Config(memory_failure=False)),
        lambda scheduler: ModelCalls(other, Config(memory_failure=False), scheduler=scheduler),
    )


def test_a_divergence_is_found_where_it_is_and_shrinks_to_what_it_takes() -> None:
    runner = _two_profiles()
    found = runner.run(from_text(_BEYOND_EOF))
    assert found is not None
    finding = runner.examine(found)
    assert finding.steady
    assert finding.kind.startswith("copy: ")
    verbs = [step.verb for step in from_text(finding.program)]
    assert verbs == ["uffd", "api", "map", "register", "truncate", "copy"]
    what, live, model = finding.lines[-1]
    assert "UFFDIO_COPY" in what
    assert live.startswith("EFAULT")
    assert model.startswith("ENOMEM")
    again = runner.run(from_text(finding.program))
    assert again is not None
    assert again.kind == finding.kind


def test_a_model_that_breaks_is_a_divergence(monkeypatch: pytest.MonkeyPatch) -> None:
    runner = _two_profiles()

    class Breaking(ModelCalls):
        def settle(self, timeout_s: float = 0.0) -> None:
            del timeout_s
            raise Errno(5)

    monkeypatch.setattr(runner, "_model", lambda _: Breaking(LINUX_6_18))
    found = runner.run(from_text("0 map anon"))
    assert found is not None
    assert "broke" in found.lines[-1].model


# One task waits to read a page, two to write it: who goes first decides what is read.
_WOKEN_AT_ONCE = (
    "0 uffd u0; 0 api u0 0; 0 map shm; 0 register u0 shm+0 1p 1; 1 load shm+0 1p; 2 store shm+0;"
    " 3 store shm+0; 0 events u0 16; 0 zeropage u0 shm+0 1p 0; 0 fork; c1.0 load shm+0"
)
_MODEL_6_18 = Config(memory_failure=False)


def _scheduled(seed: int, profile: Profile = LINUX_6_18) -> Runner:
    """A model under a schedule of its own for the live kernel, and one under its first."""
    return Runner(
        lambda: ModelCalls(LINUX_6_18, _MODEL_6_18, scheduler=Seeded(seed)),
        lambda scheduler: ModelCalls(profile, _MODEL_6_18, scheduler=scheduler),
    )


def test_what_another_schedule_of_the_model_does_is_no_divergence() -> None:
    needed = 0
    for seed in range(30):
        runner = _scheduled(seed)
        assert runner.run(from_text(_WOKEN_AT_ONCE)) is None, seed
        needed += runner.rescheduled
    assert needed


# Two tasks wait for their UNMAP event to be read; the first has a REMAP event to send after it.
_SENT_MEANWHILE = (
    "0 uffd u0 0x80800; 0 api u0 68; 0 map priv; 0 register u0 priv+0 8p 1; 0 map shm;"
    " 0 register u0 shm+0 8p 4; 0 mremap shm+4 1p 1p 3 priv+7; 2 munmap priv+0 1p; 1 events u0 16"
)


def test_a_read_may_take_the_next_event_of_a_sender_that_it_woke() -> None:
    told = set()
    for seed in range(30):
        runner = _scheduled(seed)
        found, lines = runner.trace(from_text(_SENT_MEANWHILE))
        assert found is None, seed
        told.add(int(lines[-1].live.partition(",")[0]) // uffd_msg.size)
    assert told >= {2, 3}


def test_what_no_schedule_of_the_model_does_is_one() -> None:
    other = msgspec.structs.replace(LINUX_6_18, copy_beyond_eof=errno.ENOMEM)
    wrong = f"{_WOKEN_AT_ONCE}; 0 truncate m 0p; 0 map src; 0 copy u0 shm+0 src+0 1p 0"
    for seed in range(30):
        found = _scheduled(seed, other).run(from_text(wrong))
        assert found is not None, seed
        assert found.kind.startswith("copy: "), seed


def test_every_order_of_tasks_is_tried() -> None:
    def run(scheduler: Scheduler) -> str:
        kernel = ModelCalls(LINUX_6_18, _MODEL_6_18, scheduler=scheduler)
        process = kernel.process()
        assert isinstance(process, ModelProcess)
        order = ""
        for name in "abcd":

            def tell(name: str = name) -> None:
                nonlocal order
                order += name

            process.process.thread().submit(tell)
        kernel.settle()
        return order

    first = Scripted()
    assert run(first) == "abcd"
    assert len({run(other) for other in others(first)} | {"abcd"}) == math.factorial(4)


def test_what_was_never_reached_is_told() -> None:
    runner = _two_profiles()
    runner.run(from_text("0 map anon; 0 load anon+0; 1 fork"))
    assert runner.coverage.steps["load", "anon"] == 1
    never = runner.coverage.never()
    assert ("load", "anon") not in never
    assert ("move", "hugetlb") in never
    assert ("exit", coverage.NO_MEMORY) in never


# --- This kernel and its model --------------------------------------------------------------------


@pytest.mark.timeout(300)
@pytest.mark.parametrize("part", range(SMOKE_PARTS))
def test_a_smoke_of_programs_does_not_diverge(runner: Runner, pool: Pool | None, part: int) -> None:
    for one in each(Batch(SMOKE_PROGRAMS // SMOKE_PARTS, SMOKE_SEED + part, pool is not None)):
        found = runner.run(one)
        if found is not None:
            pytest.fail(_told(runner.examine(found)))


@settings(
    max_examples=200,
    database=None,
    deadline=None,
    derandomize=True,
    phases=[Phase.generate, Phase.shrink],
    suppress_health_check=list(HealthCheck),
)
@given(one=programs())
def test_programs_of_hypothesis_do_not_diverge(runner: Runner, one: Program) -> None:
    found = runner.run(one)
    if found is not None:
        pytest.fail(_told(runner.examine(found)))


def _told(finding: Finding) -> str:
    rows = "\n".join(f"{what} | {live} | {model}" for what, live, model in finding.lines[-3:])
    return f"userfault check --program '{finding.program}'\n{rows}"
