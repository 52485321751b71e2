"""The processes that a pager is made of: what they inherit, and what they write to."""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from helpers import child

SCENES = "pager_live.processes.spawn_scenes:"
TESTS = Path(__file__).parents[2]
PATH = os.pathsep.join([str(TESTS), str(TESTS.parent / "src")])


@pytest.mark.parametrize("scene", ["inheritable", "without_standard_descriptors"])
def test_no_process_of_a_pager_inherits_what_its_client_has_open(
    scene: str, tmp_path: Path
) -> None:
    found = child.run(SCENES + scene, str(tmp_path))
    assert len(found) >= 4  # three of the family, and one that calls the function
    assert not any(found.values()), found


@pytest.mark.parametrize(
    "options",
    [
        ["-I"],
        ["-E"],
        ["-s", "-P", "-B"],
        ["-O", "-b", "-W", "error::UserWarning", "-W", "ignore::ImportWarning"],
        ["-X", "dev", "-X", "utf8=1", "-X", "int_max_str_digits=700"],
    ],
    ids=" ".join,
)
def test_a_functions_interpreter_has_the_options_of_its_clients(options: list[str]) -> None:
    code = (
        f"import sys; sys.path[:0] = {PATH.split(os.pathsep)!r}\n"
        "from pager_live.processes.spawn_scenes import options_of_processes; options_of_processes()"
    )
    done = subprocess.run(
        [sys.executable, *options, "-c", code], capture_output=True, text=True, check=True
    )
    ours, theirs = json.loads(done.stdout)
    assert ours == theirs
    flags = ours[0]
    assert flags["isolated"] == ("-I" in options)


def test_what_the_client_keeps_out_its_functions_interpreter_keeps_out(tmp_path: Path) -> None:
    """As in a set-id wrapper or a job of root's: nothing of the environment is run."""
    (tmp_path / "sitecustomize.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w').close()")
    code = (
        f"import sys; sys.path[:0] = {PATH.split(os.pathsep)!r}\n"
        "from pager_live.processes.spawn_scenes import options_of_processes; options_of_processes()"
    )
    for options, ran in ((["-I"], False), ([], True)):
        (tmp_path / "ran").unlink(missing_ok=True)
        environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
        command = [sys.executable, *options, "-c", code]
        subprocess.run(command, env=environment, check=True, capture_output=True)
        assert (tmp_path / "ran").exists() == ran


@pytest.mark.parametrize("kind", ["pipe", "socket", "terminal"])
def test_a_standard_error_that_nobody_reads_stops_nothing(kind: str, tmp_path: Path) -> None:
    read, write = _unread(kind)
    try:
        process = subprocess.run(
            [sys.executable, "-c", _SILENT, str(tmp_path)],
            stdout=subprocess.PIPE,
            stderr=write,
            env={**os.environ, "PYTHONPATH": PATH},
            timeout=90,
            check=True,
        )
    finally:
        os.close(read)
        os.close(write)
    assert json.loads(process.stdout) == [True, 40]


_SILENT = (
    "import sys, json; from pager_live.processes.spawn_scenes import silent;"
    " print(json.dumps(silent(sys.argv[1])))"
)


def _unread(kind: str) -> tuple[int, int]:
    """Both ends of something small; the second one blocks when it is full."""
    if kind == "pipe":
        read, write = os.pipe()
        fcntl.fcntl(write, fcntl.F_SETPIPE_SZ, 4096)
    elif kind == "socket":
        import socket

        ours, theirs = socket.socketpair()
        read, write = ours.detach(), theirs.detach()
    else:
        read, write = os.openpty()
    return read, write


def test_what_was_dropped_is_counted(tmp_path: Path) -> None:
    """And a function's own words arrive, when somebody reads."""
    told = tmp_path / "told"
    with told.open("wb") as file:
        subprocess.run(
            [sys.executable, "-c", _SILENT, str(tmp_path)],
            stdout=subprocess.DEVNULL,
            stderr=file,
            env={**os.environ, "PYTHONPATH": PATH},
            check=True,
        )
    text = told.read_text()
    assert "s" * 4000 in text
    assert text.count("given up: the source pager_live.functions:wordy_page failed") == 40
