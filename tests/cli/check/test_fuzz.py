"""`userfault check --fuzz` and `--program`, as commands."""

from __future__ import annotations

import signal
import time

import pytest

from cli.check.fuzzing import fuzzing
from cli.commands import userfault
from helpers.sessions import of_session
from helpers.skips import need_root
from userfault.check.differential.batch import Batch
from userfault.cli.check import crew

pytestmark = pytest.mark.usefixtures("agent")
_DIFFERS = "0 map shm; 0 kload m anon+0"  # see docs/model.md


@pytest.mark.parametrize(
    "arguments",
    [
        ("--programs", "5"),
        ("--seed", "5"),
        ("--jobs", "2"),
        ("--fuzz", "--only", "5"),
        ("--fuzz", "--list"),
        ("--program", "0 map nowhere; x"),
        ("--program", "0 nothing"),
        ("--program", "0 map nowhere"),
        ("--program", "0 load anon"),
        ("--program", "0 munmap anon+0"),
        ("--program", "0 copy u0 anon+0"),
        ("--program", "0 store x"),
    ],
)
@pytest.mark.usefixtures("pool_lock")
def test_a_wrong_call_ends_with_2(arguments: tuple[str, ...]) -> None:
    need_root()
    assert userfault("check", *arguments).returncode == 2


@pytest.mark.usefixtures("pool_lock")
def test_a_run_tells_its_seed_its_speed_and_what_it_never_reached() -> None:
    need_root()
    done = userfault("check", "--fuzz", "--programs", "30", "--seed", "3", columns=200)
    assert done.returncode == 0, done.stdout
    assert "seed 3: 30 programs" in done.stdout
    assert ", 0 of them diverged" in done.stdout
    assert "programs a second" in done.stdout
    assert "never reached: " in done.stdout


def test_every_batch_runs_however_many_run_at_once() -> None:
    need_root()
    batches = [Batch(2, seed, huge=False) for seed in range(7)]

    last = dict(crew.run(iter(batches), 2))

    assert {number: progress.programs for number, progress in last.items()} == dict.fromkeys(
        range(7), 2
    )


@pytest.mark.usefixtures("pool_lock")
def test_a_program_is_shown_with_both_answers_and_the_exit_code_tells() -> None:
    need_root()
    same = userfault("check", "--program", "0 map anon; 1 store anon+2", columns=200)
    assert same.returncode == 0, same.stdout
    assert "they agree" in same.stdout
    other = userfault("check", "--program", _DIFFERS, columns=200)
    assert other.returncode == 1
    assert "they differ" in other.stdout
    assert "Fstat" in other.stdout


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_run_that_is_interrupted_tells_how_far_it_came_and_leaves_nothing(
    number: int, code: int
) -> None:
    need_root()
    with fuzzing() as process:
        process.send_signal(number)
        told, _ = process.communicate()
    assert process.returncode == code
    assert "interrupted: " in told
    deadline = time.monotonic() + 10
    while (left := of_session(process.pid)) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not left
