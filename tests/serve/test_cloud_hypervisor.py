"""A VM that asks its daemon for each page gets the image's, once, whoever is killed meanwhile."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cli.children import run
from cli.commands import userfault
from serve.daemons import Running, Vm, build, serving
from serve.vmm_snapshots import OPTION, offloaded, snapshot

FORMS: dict[str, dict[str, Any]] = {
    "main": {"release": "main"},
    "53": {"release": "53"},
    "main, walking": {"release": "main", "walk": 1, "write": 30},
    "53, walking": {"release": "53", "walk": 1, "write": 30},
    "with a balloon": {"release": "main", "walk": 1, "drop": 30, "write": 30, "threads": 3},
    "53 with a balloon": {"release": "53", "walk": 1, "drop": 30, "write": 30, "threads": 3},
}


@pytest.fixture(scope="module")
def vmm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build("ch.c", tmp_path_factory.mktemp("ch"))


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with serving(tmp_path_factory.mktemp("daemon")) as running:
        yield running


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, image: Path) -> Path:
    """A snapshot of shared memory."""
    return snapshot(tmp_path_factory.mktemp("snapshot") / "vm", image, shared=True)


class Restore:
    """A VMM that listens, and the command that restores it."""

    def __init__(self, program: Path, at: Path, image: Path, **options: Any) -> None:
        self.vmm = Vm(program, at, image, slots=OPTION, **options)
        self.at = at
        self.attach: subprocess.Popen[str] | None = None

    def begin(self, daemon: Running, what: Path | str, *arguments: str) -> None:
        command = [sys.executable, "-m", "userfault", "attach", "--cloud-hypervisor", str(self.at)]
        control = f"--control={daemon.folder}/control"
        self.attach = subprocess.Popen(
            [*command, control, *arguments, str(what)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        threading.Thread(target=self._ends_with, args=(self.attach,), daemon=True).start()

    def _ends_with(self, attach: subprocess.Popen[str]) -> None:
        """A VMM that nobody restores any more would wait for ever."""
        if attach.wait():
            self.vmm.process.kill()

    def restored(self) -> None:
        assert self.attach is not None
        out, err = self.attach.communicate(timeout=120)
        assert self.attach.returncode == 0, err
        assert f"is restored in process {self.vmm.pid}" in out

    def words(self) -> Iterator[str]:
        """What it says, but for the sizes of its messages."""
        while word := self.vmm.reads():
            if word.split()[0] not in ("config", "state") or " " not in word:
                yield word


@contextlib.contextmanager
def restoring(program: Path, at: Path, image: Path, **options: Any) -> Iterator[Restore]:
    one = Restore(program, at, image, **options)
    try:
        yield one
    finally:
        one.vmm.close()
        if one.attach is not None:
            one.attach.kill()
            one.attach.communicate()


@pytest.mark.parametrize("form", FORMS)
def test_every_byte_is_the_images(
    daemon: Running, vmm: Path, image: Path, folder: Path, tmp_path: Path, form: str
) -> None:
    with restoring(vmm, tmp_path / "vm", image, **FORMS[form]) as one:
        one.begin(daemon, folder)
        assert list(one.words()) == ["running", "right 512"]
        one.restored()
        daemon.gone(one.vmm.pid)


def test_private_memory_gets_its_pages_with_the_answers(
    daemon: Running, vmm: Path, image: Path, tmp_path: Path
) -> None:
    made = snapshot(tmp_path / "snapshot", image, shared=False)
    with restoring(vmm, tmp_path / "vm", image, inline=1, walk=1, write=30, threads=2) as one:
        one.begin(daemon, made, "--paused")
        assert list(one.words()) == ["paused", "right 512"]


@pytest.mark.parametrize("inline", [0, 1])
def test_several_connections_are_served_for_one_vm(
    daemon: Running, vmm: Path, image: Path, tmp_path: Path, inline: int
) -> None:
    """Pages are asked for by two at a time, and a third walks; each of them outlives the worker."""
    made = snapshot(tmp_path / "snapshot", image, shared=not inline)
    options = {"inline": inline, "connections": 3, "threads": 3, "walk": 1, "write": 30}
    with restoring(vmm, tmp_path / "vm", image, stop="seen", **options) as one:
        one.begin(daemon, made, "--connections", "3")
        words = one.words()
        assert [next(words), next(words)] == ["running", "seen"]
        daemon.kill("worker")
        one.vmm.go_on()
        assert list(words) == ["right 512"]
        one.restored()
        daemon.gone(one.vmm.pid)


@pytest.mark.parametrize("make", [snapshot, offloaded])
def test_a_snapshot_in_a_store_is_served_as_its_folder_is(
    daemon: Running, vmm: Path, image: Path, tmp_path: Path, make: Any
) -> None:
    made = make(tmp_path / "snapshot", image, shared=True)
    run("pack", str(made), f"{tmp_path}/store/one")
    with restoring(vmm, tmp_path / "vm", image, walk=1) as one:
        one.begin(daemon, f"{tmp_path}/store/one")
        assert list(one.words()) == ["running", "right 512"]


@pytest.mark.parametrize(
    ("where", "inline"), [("asked", 0), ("asked", 1), ("state", 1), ("seen", 0)]
)
def test_a_worker_that_is_killed_loses_no_request(
    daemon: Running, vmm: Path, image: Path, tmp_path: Path, where: str, inline: int
) -> None:
    made = snapshot(tmp_path / "snapshot", image, shared=not inline)
    options = {"inline": inline, "stop": where, "walk": 1, "write": 30}
    with restoring(vmm, tmp_path / "vm", image, **options) as one:
        one.begin(daemon, made)
        words = one.words()
        assert any(word == where for word in words)
        for role in ("worker", "supervisor", "spare", "worker"):
            daemon.kill(role)
        one.vmm.go_on()
        assert list(words)[-1] == "right 512"


def test_a_daemon_that_hands_over_loses_no_request(
    daemon: Running, vmm: Path, image: Path, folder: Path, tmp_path: Path
) -> None:
    with restoring(vmm, tmp_path / "vm", image, stop="seen", walk=1, drop=20) as one:
        one.begin(daemon, folder)
        words = one.words()
        assert [next(words), next(words)] == ["running", "seen"]
        done = userfault("serve", "--replace", "--control", str(daemon.folder / "control"))
        assert (done.returncode, done.stdout) == (0, "replaced\n"), done.stderr
        one.vmm.go_on()
        assert list(words) == ["right 512"]


@pytest.mark.parametrize("bad", ["gpa", "length", "huge", "command"])
def test_a_vm_that_asks_for_nonsense_is_ended_and_told_of(
    daemon: Running, vmm: Path, image: Path, folder: Path, tmp_path: Path, bad: str
) -> None:
    with restoring(vmm, tmp_path / "vm", image, bad=bad) as one:
        one.begin(daemon, folder)
        assert one.vmm.process.wait(timeout=60) == -9
        daemon.logged(f"cloud-hypervisor {one.vmm.pid}: refused: ")
        daemon.gone(one.vmm.pid)


@pytest.mark.parametrize("command", [1, 2, 7])
def test_a_vmm_that_refuses_is_told_of(
    daemon: Running, vmm: Path, image: Path, folder: Path, tmp_path: Path, command: int
) -> None:
    with restoring(vmm, tmp_path / "vm", image, refuse=command) as one:
        one.begin(daemon, folder)
        assert one.attach is not None
        _, err = one.attach.communicate(timeout=60)
        assert one.attach.returncode != 0
        assert "the VMM does not take" in err


def test_a_vm_whose_snapshot_vanishes_is_ended(vmm: Path, image: Path, tmp_path: Path) -> None:
    """What cannot be read is tried again, and never zeros."""
    made = snapshot(tmp_path / "snapshot", image, shared=True)
    with (
        serving(tmp_path / "daemon") as daemon,
        restoring(vmm, tmp_path / "vm", image, stop="state") as one,
    ):
        one.begin(daemon, made)
        assert next(one.words()) == "state"
        with (made / "memory-ranges").open("r+b") as file:
            file.truncate(4096)
        one.vmm.go_on()
        assert one.vmm.process.wait(timeout=60) == -9
        daemon.logged("a page of a VM cannot be delivered")


def test_a_drained_daemon_waits_for_a_vm_that_walks(
    vmm: Path, image: Path, folder: Path, tmp_path: Path
) -> None:
    with (
        serving(tmp_path / "daemon") as daemon,
        restoring(vmm, tmp_path / "vm", image, stop="seen", walk=1) as one,
    ):
        one.begin(daemon, folder)
        words = one.words()
        assert [next(words), next(words)] == ["running", "seen"]
        daemon.process.terminate()
        daemon.logged("cloud-hypervisor")
        one.vmm.go_on()
        assert list(words) == ["right 512"]
        assert daemon.process.wait(timeout=60) == 0


def test_a_vm_whose_daemon_is_killed_as_a_whole_is_ended(
    vmm: Path, image: Path, folder: Path, tmp_path: Path
) -> None:
    """It would hang at its next page."""
    with (
        serving(tmp_path / "daemon", ends=False) as daemon,
        restoring(vmm, tmp_path / "vm", image, stop="seen") as one,
    ):
        one.begin(daemon, folder)
        words = one.words()
        assert [next(words), next(words)] == ["running", "seen"]
        family = [daemon.member(role) for role in ("spare", "supervisor", "worker")]
        for pid in family:
            os.kill(pid, signal.SIGSTOP)
        for pid in family:
            os.kill(pid, signal.SIGKILL)
        assert one.vmm.process.wait(timeout=60) == -9
