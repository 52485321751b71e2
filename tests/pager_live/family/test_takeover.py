"""Whoever of the pager is killed: threads go on with right bytes, or the client ends, loudly."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from helpers import child
from helpers.skips import absent, need_root
from stress import every_call
from userfault.linux import pidfd

SCENES = "pager_live.family.takeover_scenes:"


def told(path: Path) -> list[int]:
    """The process ids that a client has written."""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        if path.exists() and path.read_text():
            return [int(pid) for pid in path.read_text().split()]
        time.sleep(0.01)
    raise TimeoutError(f"nothing in {path}")


@pytest.mark.parametrize("memory", ["anon", "shmem"])
@pytest.mark.parametrize(
    "roles",
    [
        ["worker"],
        ["supervisor"],
        ["spare"],
        ["worker", "supervisor"],
        ["worker", "spare"],
        ["supervisor", "spare"],
    ],
    ids="+".join,
)
def test_as_long_as_one_process_lives_the_family_heals_and_no_byte_is_wrong(
    image: Path, memory: str, roles: list[str]
) -> None:
    found = child.finish(child.start(SCENES + "killed", str(image), memory, roles), 60)
    assert found == {"before": 4, "found": [4, 5, 701], "healed": True, "right": True}


def test_all_processes_killed_in_one_instant_end_the_waiting_client_by_sigbus(image: Path) -> None:
    client = child.start(SCENES + "all_killed_under_a_fault", str(image))
    client.communicate(timeout=30)
    assert client.returncode == -signal.SIGBUS


def test_the_family_of_a_client_that_is_killed_ends_and_leaves_nothing(
    image: Path, tmp_path: Path
) -> None:
    report = tmp_path / "pids"
    client = child.start(SCENES + "waits_in_a_fault", str(image), str(report))
    pids = told(report)
    processes = [os.pidfd_open(pid) for pid in pids]
    client.kill()
    client.wait()
    for pid in pids:
        os.kill(pid, signal.SIGCONT)
    client.communicate()  # the family has its standard error
    ended = [pidfd.wait(process, 30) for process in processes]
    for process in processes:
        os.close(process)
    assert ended == [True] * 3


def test_a_client_that_was_stopped_while_its_worker_died_reads_on(
    image: Path, tmp_path: Path
) -> None:
    report = tmp_path / "pids"
    client = child.start(SCENES + "reads_on_after", str(image), str(report))
    worker = os.pidfd_open(told(report)[0])
    client.send_signal(signal.SIGSTOP)
    pidfd.kill(worker)
    assert pidfd.wait(worker, 30)
    os.close(worker)
    report.unlink()
    client.send_signal(signal.SIGCONT)
    assert child.finish(client) == list(range(1, 65))


def test_workers_that_crash_one_after_the_other_end_the_client_and_say_so(image: Path) -> None:
    process = child.start("pager_live.family.takeover_scenes:workers_that_crash", str(image))
    _, said = process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL
    assert said.count("the pager's worker died of signal 11") == 3
    assert "ending the client" in said


def test_a_journal_without_room_is_a_clear_error(image: Path) -> None:
    found = child.finish(child.start(SCENES + "with_little_room", str(image)), 60)
    assert found["served"] > 0
    assert found.keys() > {"served"}
    assert not found.keys() & {"wrong", "without cause"}


def test_a_takeover_without_free_descriptors_loses_nothing(image: Path) -> None:
    found = child.finish(child.start(SCENES + "takeover_without_descriptors", str(image)), 60)
    assert found["refused"]
    assert found["right"]


def test_a_clock_that_jumps_disturbs_nobody(image: Path) -> None:
    found = child.run(SCENES + "clock_jumps", str(image))
    if not found["may"]:
        absent("needs CAP_SYS_TIME")
    assert found == {"may": True, "found": [1, 101, 201, 301], "takeovers": 2}


@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    ("role", "before"), every_call.CASES, ids=["-".join(case) for case in every_call.CASES]
)
def test_a_kill_at_any_system_call_loses_no_thread_and_no_byte(role: str, before: str) -> None:
    """A sample; `make stress` takes them all."""
    need_root()  # to trace, and for fork events
    every = every_call.SAMPLE[role]
    outcome = every_call.run(role, before, every=every, progress=lambda _: None)
    assert not outcome.bad
    assert outcome.stops
