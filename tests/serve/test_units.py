"""The units of docs/serve.md, as far as systemd's own tools tell without a system of it."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from helpers.skips import absent
from helpers.waiting import wait_until
from serve.daemons import started

DOCS = Path(__file__).resolve().parent.parent.parent / "docs" / "serve.md"
_EXPOSED = 5.0  # at most, of 10: systemd calls up to there OK


def _tool(name: str) -> str:
    found = shutil.which(name)
    if found is None:
        absent(f"needs {name}")
    return found


@pytest.fixture
def units(tmp_path: Path) -> Path:
    """A folder with them; their program is one that is here."""
    blocks = re.findall(r"```ini\n# /etc/systemd/system/(\S+)\n(.*?)```", DOCS.read_text(), re.S)
    assert {name for name, _ in blocks} == {"userfault.socket", "userfault.service"}
    program = tmp_path / "userfault"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    for name, text in blocks:
        (tmp_path / name).write_text(text.replace("/usr/bin/userfault", str(program)))
    return tmp_path


def test_systemd_finds_nothing_to_complain_of(units: Path) -> None:
    command = [_tool("systemd-analyze"), "verify", "--man=no", "--generators=no"]
    paths = [str(units / name) for name in ("userfault.service", "userfault.socket")]
    done = subprocess.run([*command, *paths], capture_output=True, text=True, check=False)
    complaints = [line for line in done.stderr.splitlines() if "userfault" in line]
    assert not complaints
    assert done.returncode == 0, done.stderr


def test_little_of_the_system_is_exposed_to_the_service(units: Path) -> None:
    command = [_tool("systemd-analyze"), "security", "--offline=true", "--no-pager"]
    path = str(units / "userfault.service")
    done = subprocess.run([*command, path], capture_output=True, text=True, check=False)
    found = re.search(r"Overall exposure level for userfault.service: ([\d.]+)", done.stdout)
    if found is None:
        absent("this systemd-analyze cannot look at a file: " + done.stderr[-200:])
    assert float(found.group(1)) <= _EXPOSED, done.stdout


def test_the_first_client_starts_it(tmp_path: Path, vm: Path, image: Path) -> None:
    """systemd-socket-activate listens; who connects then is served, and so is who comes later."""
    door = tmp_path / "door"
    with (
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as told,
        (tmp_path / "log").open("w") as log,
    ):
        told.bind(str(tmp_path / "told"))
        told.settimeout(60)
        command = [_tool("systemd-socket-activate"), "--listen", str(door), "--fdname=firecracker"]
        passed = [f"--setenv={name}" for name in ("PYTHONPATH", "PATH") if name in os.environ]
        passed.append(f"--setenv=NOTIFY_SOCKET={tmp_path}/told")
        serve = [sys.executable, "-m", "userfault", "serve", "--image", str(image)]
        process = subprocess.Popen(
            [*command, *passed, *serve, "--control", str(tmp_path / "control")],
            stdout=log,
            stderr=log,
        )
        try:
            wait_until(door.exists)
            assert not (tmp_path / "control").exists()  # nobody has come
            for _ in range(2):
                with started(vm, door, image) as one:
                    assert one.reads() == "right 512", (tmp_path / "log").read_text()
            assert told.recv(100) == b"READY=1"
            process.send_signal(signal.SIGTERM)
            assert process.wait(60) == 0
            assert told.recv(100) == b"STOPPING=1"
        finally:
            process.kill()
            process.wait()
