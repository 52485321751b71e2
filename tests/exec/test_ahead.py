"""The pager that `userfault exec` has started before it has loaded its own code."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

from cli.commands import environment
from exec.conftest import Exec, scene, words
from helpers.waiting import wait_for_text

_MARK = "USERFAULT_TEST_MARK"


def _marked(mark: str) -> dict[int, str]:
    """Command lines of the processes that have the mark in their environment."""
    found = {}
    for each in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError):
            if f"{_MARK}={mark}\0".encode() in Path(f"/proc/{each}/environ").read_bytes():
                told = Path(f"/proc/{each}/cmdline").read_bytes()
                found[int(each)] = told.replace(b"\0", b" ").decode()
    return found


def _held(pid: int) -> set[str]:
    held = set()
    for each in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(OSError):
            held.add(os.readlink(each))
    return held


@pytest.mark.parametrize("told", [[], ["--help"], ["--map", "nothing"], ["--map", "a", "--", "-"]])
def test_a_command_that_needs_no_pager_leaves_none(tmp_path: Path, told: list[str]) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "userfault", "exec", *told],
        env=environment(**{_MARK: str(tmp_path)}),
        cwd=tmp_path,
        capture_output=True,
        check=False,
    )
    assert done.returncode == (0 if told == ["--help"] else 2)
    assert not _marked(str(tmp_path))


def test_the_pager_inherits_nothing(possible: None, data: Path, tmp_path: Path) -> None:
    del possible
    said, kept = tmp_path / "said", tmp_path / "kept"
    kept.touch()
    with kept.open() as file:
        started = subprocess.Popen(
            words(["--map", data], scene("waits", data, said)),
            env=environment(**{_MARK: str(tmp_path)}),
            pass_fds=[file.fileno()],
        )
    wait_for_text(said)
    found = _marked(str(tmp_path))
    family = [pid for pid, line in found.items() if "pager_main" in line]
    assert len(family) >= 2  # a spare may be on its way
    assert not [pid for pid in family if str(kept) in _held(pid)]
    assert str(kept) in _held(started.pid)
    assert {os.getsid(pid) for pid in family} & {started.pid, os.getsid(started.pid)} == set()
    said.unlink()
    assert started.wait(60) == 0


@pytest.mark.parametrize("how", ["no standard input", "a Python that was asked for"])
def test_where_it_cannot_be_started_ahead_it_is_started_later(
    run: Exec, data: Path, how: str
) -> None:
    plain = run(["--map", data], scene("reads", data))
    assert plain.returncode == 0
    if how == "no standard input":
        done = subprocess.run(
            ["/bin/sh", "-c", 'exec "$@" <&-', "sh", *words(["--map", data], scene("reads", data))],
            env=environment(),
            capture_output=True,
            text=True,
            check=False,
        )
    else:
        done = run(["--map", data], scene("reads", data), USERFAULT_PYTHON=sys.executable)
    assert (done.returncode, done.stdout) == (0, plain.stdout)


def test_a_pager_that_was_killed_before_it_was_needed_is_told_of(tmp_path: Path) -> None:
    program = (
        "import os, userfault\n"
        "from userfault.api import ahead\n"
        "ahead.begin()\n"
        "os.kill(ahead._begun[0].pid, 9)\n"
        "os.waitid(os.P_PID, ahead._begun[0].pid, os.WEXITED | os.WNOWAIT)\n"
        "try:\n"
        "    userfault.Pager()\n"
        "except userfault.PagerError as error:\n"
        "    print(error.cause)\n"
        "with userfault.Pager() as pager:\n"
        "    print(pager.alive)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines() == ["the process that was started has ended", "True"]
