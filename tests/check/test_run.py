"""Running statements: every way to end has a name, and none ends the run."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from errno import EBADF

import pytest

from userfault.check.live.kernel import LiveKernel, live_kernel
from userfault.check.run import run, run_case, unknown_features
from userfault.check.words.outcome import CannotRun, CaseResult, Verdict, expect
from userfault.check.words.statement import REGISTRY, Statement, statement
from userfault.check.words.thread import Thread
from userfault.kernel import calls
from userfault.kernel.calls import CallKernel
from userfault.kernel.errors import UsageError
from userfault.kernel.memtypes import Memory

pytestmark = pytest.mark.usefixtures("agent", "leaks_nothing")


def planted(
    body: Callable[..., None], *memories: str, since: tuple[int, int] = (4, 3)
) -> Statement:
    return Statement(1, "planted", "It is so.", since, "this test", memories, {}, body)


def outcome(body: Callable[..., None]) -> CaseResult:
    return run_case(planted(body), "", live_kernel)


def test_a_promise_that_is_kept_passes_with_its_trace() -> None:
    def body(t: Thread) -> None:
        t.fails(calls.Close(99), EBADF)

    found = outcome(body)

    assert (found.verdict, found.reason) == (Verdict.PASSED, "")
    assert found.trace == ("T1 Close(99) -> EBADF",)


def test_a_promise_that_is_broken_fails_with_what_was_seen() -> None:
    def body(t: Thread) -> None:
        area = t.map("anon")
        expect(t.read(area.address, 2), b"no", "the bytes")

    found = outcome(body)

    assert found.verdict is Verdict.FAILED
    assert found.reason == r"the bytes: promised b'no', saw b'\x00\x00'"
    assert len(found.trace) == 2


def test_a_sleep_that_was_not_promised_fails() -> None:
    def body(t: Thread) -> None:
        t.ok(calls.Pipe())
        t.ok(calls.ReadFd(calls.FIRST_FD, 1))

    found = outcome(body)

    assert found.verdict is Verdict.FAILED
    assert "sleeps, waiting for pipe" in found.reason


def test_a_hang_is_lost() -> None:
    def body(t: Thread) -> None:
        while True:
            t.do(calls.Dup(99))

    found = run_case(planted(body), "", live_kernel, deadline_s=0.3)

    assert found.verdict is Verdict.LOST
    assert found.reason.startswith("hang")


def test_a_crash_is_lost() -> None:
    def body(t: Thread) -> None:
        os.kill(t.process.pid, signal.SIGABRT)
        while True:
            t.do(calls.Dup(0))

    found = outcome(body)

    assert found.verdict is Verdict.LOST
    assert found.reason.startswith("crash")


def test_a_statement_that_breaks_is_lost_and_says_where() -> None:
    def body(t: Thread) -> None:
        del t
        raise KeyError("oops")

    found = outcome(body)

    assert found.verdict is Verdict.LOST
    assert "KeyError('oops')" in found.reason
    assert "test_run.py" in found.reason


def test_what_is_lacking_is_told() -> None:
    def body(t: Thread) -> None:
        del t
        raise CannotRun("no moon", cure="wait for the night")

    found = outcome(body)

    assert found.verdict is Verdict.CANNOT_RUN
    assert found.reason == "no moon (cure: wait for the night)"


def test_a_kernel_that_is_too_old_is_not_asked() -> None:
    found = run_case(planted(lambda t: t.absent(), since=(99, 1)), "", live_kernel)

    assert found.verdict is Verdict.CANNOT_RUN
    assert found.reason.startswith("it is kept since Linux 99.1")
    assert found.trace == ()


def test_it_runs_once_on_each_memory() -> None:
    seen: list[str] = []

    def body(t: Thread, memory: Memory) -> None:
        t.map(memory)
        seen.append(memory.name)

    both = planted(body, "anon", "shmem")

    assert [found.memory for found in run([both], live_kernel)] == ["anon", "shmem"]
    chosen = run([both], live_kernel, memories=frozenset({"shmem", "hugetlb"}))
    assert [found.memory for found in chosen] == ["shmem"]
    assert seen == ["anon", "shmem", "shmem"]


def test_every_case_has_a_kernel_of_its_own_which_is_closed() -> None:
    made: list[LiveKernel] = []

    def factory() -> CallKernel:
        made.append(LiveKernel())
        return made[-1]

    def body(t: Thread) -> None:
        raise AssertionError(t.process.pid)

    list(run([planted(body), planted(body)], factory))

    assert len(made) == 2
    for kernel in made:
        (process,) = kernel.processes.values()
        with pytest.raises(ProcessLookupError):
            os.kill(process.pid, 0)


def test_a_number_belongs_to_one_statement() -> None:
    def first(t: Thread) -> None: ...
    def second(t: Thread) -> None: ...

    register = statement(100_000, "It is so.", since="4.3", source="this test")
    try:
        register(first)
        with pytest.raises(UsageError, match="twice"):
            register(second)
    finally:
        del REGISTRY[100_000]


def test_this_release_knows_the_features_of_this_kernel() -> None:
    assert unknown_features(live_kernel) == 0
