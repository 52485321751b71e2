"""The stress test, short; `make stress` takes minutes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from helpers.skips import absent, need_root
from stress import family
from stress.run import Options, pools, run
from userfault.check.live.agent.build import NoAgent

KILLS = 40


@pytest.mark.timeout(300)
@pytest.mark.parametrize("memory", ["anon,shmem", "hugetlb", "shmem+budget,shmem+spill"])
def test_no_byte_is_wrong_and_no_thread_hangs_while_worker_and_supervisor_are_killed(
    memory: str,
) -> None:
    need_root()  # fork events, huge pages
    options = Options(kills=KILLS, memory=tuple(memory.split(",")))
    with pools(options):
        try:
            result = run(options, lambda _: None)
        except NoAgent as error:
            absent(str(error))
    assert result.good, "\n".join(result.details)
    assert result.kills == {"worker": KILLS // 2, "supervisor": KILLS // 2}
    assert result.accesses > KILLS


def test_ctrl_c_leaves_nothing_of_the_stress_test(tmp_path: Path) -> None:
    mark = f"stress-{os.getpid()}-{time.monotonic_ns()}"
    top = Path(__file__).resolve().parents[2]
    command = [
        sys.executable,
        "-m",
        "tests.stress",
        "--memory",
        "anon",
        "--directory",
        str(tmp_path),
    ]
    test = subprocess.Popen(
        command, cwd=top, stderr=subprocess.DEVNULL, env={**os.environ, "STRESS_TEST": mark}
    )
    deadline = time.monotonic() + 30
    while len(family.marked(mark)) < 5 and time.monotonic() < deadline:  # it runs, with a family
        time.sleep(0.05)
    test.send_signal(signal.SIGINT)
    code = test.wait(60)
    if code == 2:
        absent("no C compiler")
    assert code == 130
    assert not family.wait_gone(mark, 10)
    assert not list(tmp_path.iterdir())
