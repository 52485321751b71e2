"""What the checks do where something is lacking, or goes away while they run.

Each says what is lacking and goes on with the rest: nothing ends in a traceback or in a hang.
"""

from __future__ import annotations

import os
import signal
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from click.testing import CliRunner

from cli.check.fuzzing import fuzzing
from helpers import child
from helpers.sessions import of_session
from helpers.skips import need_root
from userfault.check import kernels
from userfault.check.differential.batch import Runner
from userfault.check.differential.found import kernels as both
from userfault.check.differential.program import from_text
from userfault.check.live import host
from userfault.check.live.kernel import LiveKernel, live_kernel
from userfault.check.live.steps import files, requests
from userfault.check.run import run, run_case
from userfault.check.statements import load
from userfault.check.words.outcome import Verdict
from userfault.check.words.statement import Statement
from userfault.check.words.thread import Thread
from userfault.cli.check import fuzz as check_fuzz
from userfault.cli.main import userfault as main
from userfault.kernel import calls
from userfault.kernel.errors import MemoryUnavailable
from userfault.linux import hugepool
from userfault.model.faces.calls import ModelCalls
from userfault.model.profiles import LINUX_7_3

pytestmark = pytest.mark.usefixtures("agent", "leaks_nothing")


@pytest.fixture
def free_for_all() -> Iterator[str]:
    """A directory that a user without rights can reach and own files in."""
    need_root()
    with tempfile.TemporaryDirectory(prefix="userfault-nobody-") as directory:
        os.chown(directory, child.NOBODY, child.NOBODY)
        yield directory


# --- No privilege ---------------------------------------------------------------------------------


@pytest.mark.timeout(120)
def test_without_rights_each_statement_passes_or_says_what_it_lacks(free_for_all: str) -> None:
    found = child.finish(child.start("check.children:statements_as_nobody", free_for_all), 100)

    assert len(found) > 100
    assert {verdict for _, verdict, _ in found} <= {"passed", "cannot run here"}
    lacking = [reason for _, verdict, reason in found if verdict == "cannot run here"]
    assert lacking
    assert all("cure: " in reason or "it is kept " in reason for reason in lacking)


def test_without_rights_random_programs_say_why_they_cannot_run(free_for_all: str) -> None:
    told = child.run("check.children:programs_as_nobody", free_for_all)

    assert "programs need every feature" in told
    assert "run as root" in told


# --- No hugetlb, no KVM ---------------------------------------------------------------------------


def test_without_hugetlb_its_statements_say_so(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(hugepool, "_ROOT", str(tmp_path))
    found = [s for s in load() if "hugetlb" in s.memories][:5]

    for result in run(found, live_kernel, memories=frozenset({"hugetlb"})):
        assert result.verdict is Verdict.CANNOT_RUN
        assert "no hugetlb pages of 2 MiB" in result.reason


def test_without_hugetlb_random_programs_leave_huge_pages_out(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    need_root()
    monkeypatch.setattr(hugepool, "_ROOT", str(tmp_path))
    done = CliRunner().invoke(main, ["check", "--fuzz", "--programs", "20", "--seed", "1"])

    assert done.exit_code == 0, done.output
    assert "without hugetlb: no hugetlb pages of 2 MiB" in done.output
    assert "map of hugetlb" in " ".join(done.output.split())


def test_promises_of_the_pool_that_leaked_are_not_counted_as_free(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """As 6.18 leaks them (docs/model.md): 10 free pages, of which 8 are promised to nobody."""
    directory = tmp_path / "hugepages-2048kB"
    directory.mkdir()
    for name, value in (("nr", 10), ("free", 10), ("resv", 8), ("surplus", 0)):
        (directory / f"{name}_hugepages").write_text(f"{value}\n")
    monkeypatch.setattr(hugepool, "_ROOT", str(tmp_path))

    hugepool.PoolShare(calls.HUGE, 2, grow=False).close()
    with pytest.raises(MemoryUnavailable) as caught:
        hugepool.PoolShare(calls.HUGE, 3, grow=False)
    assert "the pool has 10 pages, 2 of them free, 8 promised to others" in caught.value.cause


def test_without_kvm_guest_memfd_cannot_run_and_the_rest_does(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    need_root()
    real = requests.open_path
    monkeypatch.setattr(
        files, "open_path", lambda path, flags: real(path.replace("kvm", "no-kvm"), flags)
    )
    found = [s for s in load() if "guest_memfd" in s.memories][:3]
    assert found
    for result in run(found, live_kernel, memories=frozenset({"guest_memfd"})):
        assert result.verdict is Verdict.CANNOT_RUN
        assert "/dev/kvm" in result.reason

    program = from_text(
        "0 uffd u0; 0 api u0 0; 0 map gmem; 0 register u0 gmem+0 1p 1; 0 load gmem+0"
    )
    assert Runner(*both()).run(program) is None


# --- Agents and batches that hang or die ----------------------------------------------------------


def _planted(body: Any) -> Statement:
    return Statement(1, "planted", "It is so.", (4, 3), "this test", (), {}, body)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_an_agent_that_dies_or_hangs_is_a_lost_case_and_leaves_nothing(
    number: signal.Signals,
) -> None:
    agents = []

    def body(t: Thread) -> None:
        agents.append(t.process.pid)
        area = t.map("anon")
        os.kill(t.process.pid, number)
        while True:
            t.read(area.address)

    result = run_case(_planted(body), "", live_kernel, deadline_s=0.5)

    assert result.verdict is Verdict.LOST
    assert result.reason
    assert not os.path.exists(f"/proc/{agents[0]}")


def test_an_agent_that_does_not_start_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host, "agent_path", lambda: "/bin/false")
    result = run_case(_planted(lambda _: None), "", live_kernel)

    assert result.verdict is Verdict.LOST
    assert "ended with status 1 before it began" in result.reason


@pytest.mark.timeout(120)
def test_a_batch_that_is_killed_ends_the_run_with_what_was_found_so_far() -> None:
    need_root()
    with fuzzing() as process:
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        os.kill(int(children[0]), signal.SIGKILL)
        told, errors = process.communicate()

    assert process.returncode == 1
    assert "interrupted: " in told
    assert "a batch ended after" in errors
    assert "its process ended with status -9" in errors
    assert "Traceback" not in errors
    deadline = time.monotonic() + 10
    while (left := of_session(process.pid)) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not left


# --- A kernel newer than every profile ------------------------------------------------------------


def test_on_a_newer_kernel_statements_run_and_unknown_features_are_named(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    newer = msgspec.structs.replace(
        LINUX_7_3, name="9.1", release=(9, 1), features=LINUX_7_3.features | 1 << 40
    )
    factory = kernels.Factory("Linux 9.1", lambda: ModelCalls(newer))
    monkeypatch.setattr(kernels, "live", lambda: factory)
    done = CliRunner().invoke(main, ["check", "--only", "7,10,19"], standalone_mode=False)

    assert done.return_value == 0, done.output
    assert done.output.startswith("Linux 9.1: 3 statements")
    assert "features that we do not know: 0x10000000000" in done.output


@pytest.mark.usefixtures("pool_lock")
def test_on_a_newer_kernel_random_programs_say_whose_model_they_run_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    need_root()
    monkeypatch.setattr(LiveKernel, "release", (9, 1))
    monkeypatch.setattr(check_fuzz, "seeds", lambda *_, **__: iter(()))
    done = CliRunner().invoke(main, ["check", "--fuzz", "--seed", "1"], standalone_mode=False)

    assert "no profile of 9.1: the model is that of 7.3" in " ".join(done.output.split())
