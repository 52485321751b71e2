"""Who is not served and has handed over its memory neither waits for ever nor reads zeros."""

from __future__ import annotations

import os
import signal
import socket
import tempfile
from pathlib import Path

import pytest

from helpers import child
from helpers.skips import need_root
from helpers.waiting import wait_until
from serve.daemons import serving, started
from serve.test_hostile import ended
from userfault.linux.uffd import LiveUserfaultfd
from userfault.serve.turning_away import counts_on_us

SCENES = {
    "less_than_the_image": "its regions show 4096 bytes",
    "memory_of_another_kind": "is not registered with a userfaultfd",
    "half_with_memory": "half of a message",
}


@pytest.mark.parametrize("scene", SCENES)
def test_it_is_ended_before_its_memory_is_let_go_of(
    tmp_path: Path, image: Path, scene: str
) -> None:
    """It keeps no descriptor: when the last one closes, a page that is touched reads zeros."""
    arguments = ["--firecracker", str(tmp_path / "vm"), "--image", str(image)]
    with serving(tmp_path / "daemon", *arguments, "--handshake-timeout", "1") as daemon:
        assert ended(child.start(f"serve.refused_scenes:{scene}", arguments[1])) == "killed"
        daemon.logged(SCENES[scene])
        daemon.logged("handed over its memory, which nobody fills: ended")


def test_so_is_one_that_may_not_be_served(image: Path) -> None:
    """It is refused before anybody has looked at what it sent."""
    need_root()
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        Path(folder).chmod(0o711)
        door = f"{folder}/door"
        arguments = ("--firecracker", door, "--image", str(image), "--group", str(child.NOBODY))
        with serving(Path(folder) / "daemon", *arguments, "--allow-user", "daemon") as daemon:
            worker = daemon.member("worker")
            os.kill(worker, signal.SIGSTOP)  # else it may notice that nothing is taken
            one = child.start("serve.refused_scenes:nobody_with_memory", door)
            assert one.stdout is not None
            assert one.stdout.readline() == "sent\n"
            os.kill(worker, signal.SIGCONT)
            assert ended(one) == "killed"
            daemon.logged(f"user {child.NOBODY} is none of those who may")


def test_so_is_one_with_more_memory_than_is_allowed(tmp_path: Path, vm: Path, image: Path) -> None:
    """The image has 2 MiB; one with as much as is allowed is served."""
    arguments = ["--firecracker", str(tmp_path / "vm"), "--image", str(image)]
    with serving(tmp_path / "daemon", *arguments, "--client-memory", "1M") as daemon:
        with started(vm, tmp_path / "vm", image, stop="sent") as one:
            assert one.reads() == "sent"
            assert one.process.wait(60) == -signal.SIGKILL
        daemon.logged("it has 2 MiB, 1 MiB are allowed")
    with (
        serving(tmp_path / "daemon", *arguments, "--client-memory", "2M"),
        started(vm, tmp_path / "vm", image) as right,
    ):
        assert right.reads() == "right 512"


def test_by_option_it_is_only_let_go_of(tmp_path: Path, image: Path) -> None:
    """It has a watchdog of its own, or it is to be looked at."""
    arguments = ["--firecracker", str(tmp_path / "vm"), "--image", str(image)]
    with serving(tmp_path / "daemon", *arguments, "--on-refusal", "close") as daemon:
        one = child.start("serve.refused_scenes:less_than_the_image", arguments[1])
        first, *_ = ended(one).split('"')  # two threads may both have said something
        assert first in ("closed", "it has read memory that nobody filled")
        daemon.logged("is not ended (--on-refusal close)")


def test_who_waits_to_be_let_in_when_the_daemon_ends_is_not_left_behind(
    tmp_path: Path, vm: Path, image: Path
) -> None:
    """It lies in the queue of a socket that is shut, with everything that it sent."""
    arguments = ["--firecracker", str(tmp_path / "vm"), "--image", str(image)]
    with (
        serving(tmp_path / "daemon", *arguments, "--max-clients", "1") as daemon,
        started(vm, tmp_path / "vm", image, stop="sent") as served,
    ):
        assert served.reads() == "sent"
        daemon.logged(f"{served.pid}: served")
        with started(vm, tmp_path / "vm", image, stop="sent") as waits:
            assert waits.reads() == "sent"
            daemon.process.send_signal(signal.SIGTERM)
            assert waits.process.wait(60) == -signal.SIGKILL
            daemon.logged("nobody is let in any more")
        assert daemon.process.wait(60) == 0
        served.go_on()
        assert served.reads() == "right 512"


def test_who_has_just_connected_when_the_daemon_ends_is_filled(
    tmp_path: Path, vm: Path, image: Path
) -> None:
    """As those who were there are: it has room, and has said what it wants."""
    arguments = ["--firecracker", str(tmp_path / "vm"), "--image", str(image)]
    with (
        serving(tmp_path / "daemon", *arguments, "--max-waiting", "1") as daemon,
        socket.socket(socket.AF_UNIX) as silent,
    ):
        silent.connect(str(tmp_path / "vm"))
        wait_until(lambda: daemon.ask("sessions")["waiting"] == 1)
        with started(vm, tmp_path / "vm", image, stop="sent") as one:
            assert one.reads() == "sent"  # in the queue: there is no room to wait in
            daemon.ask("drain")
            silent.close()
            assert daemon.process.wait(60) == 0
            one.go_on()
            assert one.reads() == "right 512"


def test_memory_is_found_in_a_connection_that_is_to_be_closed() -> None:
    """Wherever in it; and what it has not sent yet it cannot send any more."""
    ours, theirs = socket.socketpair()
    with ours, theirs, LiveUserfaultfd.open() as uffd, open(os.devnull, "rb") as null:
        theirs.send(b"x" * 1000)
        socket.send_fds(theirs, [b"y"], [null.fileno()])
        socket.send_fds(theirs, [b"z"], [null.fileno(), uffd.fileno()])
        held = len(os.listdir("/proc/self/fd"))
        assert counts_on_us(ours)
        assert len(os.listdir("/proc/self/fd")) == held
        with pytest.raises(BrokenPipeError):
            socket.send_fds(theirs, [b"more"], [uffd.fileno()])


def test_none_is_found_where_there_is_none() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs, open(os.devnull, "rb") as null:
        socket.send_fds(theirs, [b"y" * 5000], [null.fileno()])
        theirs.close()
        assert not counts_on_us(ours)
