"""`userfault doctor`: what is there is found, what was taken away is missed, with the cure."""

from __future__ import annotations

import json
import os
import resource
import subprocess
from pathlib import Path
from typing import Any

import pytest

from cli.commands import command, environment, userfault
from helpers import child
from helpers.skips import absent, need_root
from userfault.doctor.clients import CLIENTS, LOOKS


def examined(printed: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """The findings by name, and the rest."""
    told = json.loads(printed)
    return {each["name"]: each for each in told["findings"]}, told


def test_a_host_that_has_everything_is_well() -> None:
    need_root()
    ran = userfault("doctor", "--json")
    found, told = examined(ran.stdout)
    assert (ran.returncode, told["well"]) == (0, True), told
    assert list(found) == list(LOOKS)
    assert set(told["clients"]) == set(CLIENTS)
    for name in ("opening", "served", "events", "memfd", "pidfd", "processes"):
        assert found[name]["state"] == "ok", found[name]


def test_what_is_not_well_has_a_reason_and_a_cure() -> None:
    for each in examined(userfault("doctor", "--json").stdout)[0].values():
        assert each["found"]
        assert each["why"]
        assert bool(each["cure"]) == (each["state"] != "ok"), each


def test_what_clients_need_is_looked_at() -> None:
    for client in CLIENTS.values():
        assert set(client.whole) <= set(client.needs)
        assert {*client.needs, *client.likes} <= set(LOOKS)


def test_only_what_a_client_needs_is_shown_for_it() -> None:
    found, told = examined(userfault("doctor", "--json", "--for", "native").stdout)
    assert set(found) == {*CLIENTS["native"].needs, *CLIENTS["native"].likes}
    assert set(told["clients"]) == {"native"}


def test_no_userfaultfd_is_missed_with_the_cure() -> None:
    need_root()
    ran = child.run("cli.children:run_behind_seccomp", "doctor", "--json", "--for", "native")
    found, told = examined(ran["out"])
    assert (ran["code"], told["well"]) == (3, False)
    assert found["opening"]["state"] == found["served"]["state"] == "missing"
    assert "seccomp" in found["opening"]["cure"]
    assert found["seccomp"]["state"] == "degraded"
    assert "userfaultfd" in found["seccomp"]["found"]
    assert "opening" in told["clients"]["native"]["lacks"]


def test_user_mode_only_is_enough_for_programs_and_not_for_machines() -> None:
    ran = child.run(
        "cli.children:run_in_user_mode_only", "doctor", "--json", "--for=native", "--for=vmm"
    )
    found, told = examined(ran["out"])
    assert found["opening"]["state"] == found["served"]["state"] == "degraded"
    assert "EFAULT" in found["served"]["found"]
    assert not told["clients"]["native"]["lacks"]
    assert set(told["clients"]["vmm"]["lacks"]) >= {"opening", "served"}
    assert ran["code"] == 3


@pytest.mark.parametrize(("limit", "state", "code"), [(100, "missing", 3), (1000, "degraded", 0)])
def test_few_open_files_are_few_clients(limit: int, state: str, code: int) -> None:
    ran = subprocess.run(
        command("doctor", "--json", "--for=serve"),
        env=environment(),
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit)),
        capture_output=True,
        text=True,
        check=False,
    )
    found, _ = examined(ran.stdout)
    assert (found["descriptors"]["state"], ran.returncode) == (state, code), ran.stderr
    assert "LimitNOFILE" in found["descriptors"]["cure"]


@pytest.mark.parametrize(
    ("script", "state", "said"),
    [
        (None, "missing", "not found"),
        ("[ $1 = --version ] && echo Version: 9.9 || exit 0", "ok", "Version: 9.9"),
        ("[ $1 = --version ] && echo 9.9 || { echo no vDSO >&2; exit 1; }", "degraded", "no vDSO"),
    ],
)
def test_criu_is_asked(tmp_path: Path, script: str | None, state: str, said: str) -> None:
    if script is not None:
        (tmp_path / "criu").write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / "criu").chmod(0o755)
    elif any(Path(folder, "criu").exists() for folder in ("/usr/sbin", "/usr/local/sbin")):
        absent("a system without CRIU")
    ran = subprocess.run(
        command("doctor", "--json", "--for=criu"),
        env=environment(PATH=str(tmp_path)),
        capture_output=True,
        text=True,
        check=False,
    )
    found, told = examined(ran.stdout)
    assert found["criu"]["state"] == state, found["criu"]
    assert said in found["criu"]["found"]
    assert ("criu" in told["clients"]["criu"]["lacks"]) == (state == "missing")


def test_words_for_people() -> None:
    ran = userfault("doctor", "--for", "firecracker")
    assert ran.returncode in (0, 3)
    assert "does less without" in ran.stdout
    if not os.path.exists("/usr/bin/firecracker"):
        assert "cure:" in ran.stdout


def test_nobody_is_no_client() -> None:
    assert userfault("doctor", "--for", "nobody").returncode == 2
