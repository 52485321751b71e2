"""What ends, and what goes on: the command in front, the whole family, a store, an image."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from cli.children import run
from cli.commands import userfault
from helpers.folders import gone
from helpers.waiting import wait_until
from serve.daemons import serving, started


def test_the_command_in_front_may_be_killed(tmp_path: Path, vm: Path, image: Path) -> None:
    arguments = ("--firecracker", str(tmp_path / "vm"), "--image", str(image))
    with (
        serving(tmp_path / "daemon", *arguments, ends=False) as daemon,
        started(vm, tmp_path / "vm", image, stop="sent") as one,
    ):
        assert one.reads() == "sent"
        daemon.process.kill()
        daemon.process.wait()
        worker = daemon.kill("worker")
        one.go_on()
        assert one.reads() == "right 512"
        with started(vm, tmp_path / "vm", image) as later:
            assert later.reads() == "right 512"
        daemon.ask("drain")
        wait_until(lambda: not Path(f"/proc/{worker}").exists())
        assert not (tmp_path / "vm").exists()
        assert not (tmp_path / "daemon" / "control").exists()


@pytest.mark.parametrize("handed_over", [False, True])
def test_clients_of_a_family_that_dies_as_a_whole_are_ended(
    tmp_path: Path, vm: Path, image: Path, handed_over: bool
) -> None:
    """Also those that share another one's memory, and those whom another family had served."""
    arguments = ("--firecracker", str(tmp_path / "vm"), "--image", str(image))
    with (
        serving(tmp_path / "daemon", *arguments, ends=False) as daemon,
        started(vm, tmp_path / "vm", image, stop="sent") as one,
        started(vm, tmp_path / "vm", image, stop="sent", processes=2) as two,
    ):
        assert (one.reads(), two.reads()) == ("sent", "sent")
        daemon.logged(f"{one.pid}: served")
        wait_until(lambda: daemon.log.count("served") == 3)
        if handed_over:
            control = str(tmp_path / "daemon" / "control")
            assert userfault("serve", "--replace", "--control", control).returncode == 0
        pids = [daemon.member(role) for role in ("worker", "supervisor", "spare")]
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)  # so that none goes on for another
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
        assert one.process.wait(60) == -signal.SIGKILL
        assert two.process.wait(60) == -signal.SIGKILL


@pytest.mark.parametrize("killed", [False, True])
def test_whose_memory_is_in_lives_on_without_the_family(
    tmp_path: Path, vm: Path, image: Path, killed: bool
) -> None:
    """Also those that share another one's memory, and those whom another worker took over."""
    arguments = ("--firecracker", str(tmp_path / "vm"), "--image", str(image))
    with (
        serving(tmp_path / "daemon", *arguments, ends=False) as daemon,
        started(vm, tmp_path / "vm", image, stop="seen", processes=3) as three,
    ):
        assert three.reads() == "seen"

        def finished() -> bool:
            found = daemon.ask("sessions")["sessions"]
            return [each["finished"] for one in found for each in one["mappings"]] == [True]

        wait_until(finished)
        if killed:
            daemon.kill("worker")
            wait_until(finished)
        pids = [daemon.member(role) for role in ("worker", "supervisor", "spare")]
        for number in (signal.SIGSTOP, signal.SIGKILL):
            for pid in pids:
                os.kill(pid, number)
        wait_until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in pids[:1]))
        three.go_on()
        assert three.reads() == "right 512"


def test_those_who_share_memory_are_left_together(tmp_path: Path, vm: Path, image: Path) -> None:
    """Once it is in: none of them has to end for that."""
    arguments = ("--firecracker", str(tmp_path / "vm"), "--image", str(image))
    with (
        serving(tmp_path / "daemon", *arguments) as daemon,
        started(vm, tmp_path / "vm", image, stop="sent", processes=3) as three,
    ):
        assert three.reads() == "sent"
        wait_until(lambda: daemon.log.count("served") == 3)
        daemon.ask("drain")
        assert daemon.process.wait(60) == 0
        three.go_on()
        assert three.reads() == "right 512"


@pytest.mark.parametrize("how", ["poison", "kill"])
def test_a_store_that_vanishes_costs_its_clients_and_no_others(
    tmp_path: Path, vm: Path, image: Path, how: str
) -> None:
    stored = tmp_path / "memory"  # of bytes that take chunks
    stored.write_bytes(os.urandom(512 * 4096))
    run("pack", str(stored), f"{tmp_path}/store/one")
    arguments = [f"--firecracker={tmp_path}/{{name}}.sock", f"--image=file={image}"]
    arguments += [f"--snapshot=gone={tmp_path}/store/one", "--on-failure", how]
    with (
        serving(tmp_path / "daemon", *arguments) as daemon,
        started(vm, tmp_path / "gone.sock", stored, stop="sent") as one,
        started(vm, tmp_path / "file.sock", image, stop="sent") as other,
    ):
        assert (one.reads(), other.reads()) == ("sent", "sent")
        daemon.logged(f"{one.pid}: served")
        for path in (tmp_path / "store").rglob("*"):  # files that are open stay where they are
            if path.is_file():
                os.truncate(path, 0)
        wait_until(lambda: gone(tmp_path / "store"))
        one.go_on()
        other.go_on()
        ended = {"poison": -signal.SIGBUS, "kill": -signal.SIGKILL}
        assert one.process.wait(120) == ended[how]
        assert other.reads() == "right 512"


def test_an_image_that_is_cut_is_noticed(tmp_path: Path, vm: Path, image: Path) -> None:
    place = tmp_path / "memory"
    place.write_bytes(image.read_bytes())
    arguments = ("--firecracker", str(tmp_path / "vm"), "--image", str(place))
    with (
        serving(tmp_path / "daemon", *arguments) as daemon,
        started(vm, tmp_path / "vm", image, stop="sent") as one,
    ):
        assert one.reads() == "sent"
        daemon.logged(f"{one.pid}: served")
        os.truncate(place, 4096)
        one.go_on()
        assert one.process.wait(120) == -signal.SIGBUS
        daemon.logged("changed size")
