"""A restore is served to its end, wherever on the way a worker is killed or the daemon replaced."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from helpers.waiting import wait_until
from serve.criu.restores import replace
from serve.daemons import Running, build, serving
from snapshot.dumps import LAZY, PRESENT, Dump, area, page
from userfault.snapshot.inputs.protocol import PAGE

PID, AT, PAGES = 7, 0x600000000000, 300
_IN_S = 3.0  # more than a client is watched for that needs nobody any more
STOPS = ("connected", "half", "pid", "task", "registered", "nearly", "finished", "alone")


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build("criu/restore.c", tmp_path_factory.mktemp("built"))


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("images")
    made = Dump(folder, [PID])
    made.memory(PID, area(AT, AT + 2 * PAGES * PAGE))
    half = PAGES // 2
    pages = b"".join(map(page, range(PAGES)))
    made.pages(
        str(PID),
        1,
        (AT, pages[: half * PAGE], LAZY | PRESENT),
        (AT + half * PAGE, pages[half * PAGE :], LAZY | PRESENT),
    )
    return folder


class Task:
    """The program of `restore.c`."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process

    def reads(self) -> str:
        """The next line that it says; "" at its end."""
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def go_on(self) -> None:
        """Past its stop."""
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()


@contextlib.contextmanager
def restoring(program: Path, work: Path, stop: str = "", pid: int = PID) -> Iterator[Task]:
    """A task on its way, until the end of the block."""
    words = [str(work / "lazy-pages.socket"), str(pid), hex(AT), str(PAGES), stop]
    process = subprocess.Popen(
        [str(program), *words], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        yield Task(process)
    finally:
        process.kill()
        process.communicate()


@pytest.fixture(scope="module", params=["--background", "--no-background"])
def daemon(
    tmp_path_factory: pytest.TempPathFactory, images: Path, request: pytest.FixtureRequest
) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("daemon")
    with serving(folder, "--criu", f"{folder}={images}", request.param) as running:
        yield running


def descriptors(daemon: Running) -> int:
    return len(os.listdir(f"/proc/{daemon.member('worker')}/fd"))


@pytest.mark.parametrize("stop", STOPS)
def test_a_worker_is_killed(daemon: Running, program: Path, stop: str) -> None:
    with restoring(program, daemon.folder, stop) as task:
        assert task.reads() == stop
        daemon.kill("worker")
        task.go_on()
        assert task.reads() == "right"


@pytest.mark.parametrize("stop", STOPS)
def test_the_daemon_is_replaced(daemon: Running, program: Path, stop: str) -> None:
    with restoring(program, daemon.folder, stop) as task:
        assert task.reads() == stop
        replace(daemon)
        task.go_on()
        assert task.reads() == "right"


def test_the_daemon_is_replaced_while_children_outlive_what_their_parents_lacked(
    daemon: Running, program: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WHOLE", "1")  # every page comes from the daemon
    with contextlib.ExitStack() as stack:
        tasks = [stack.enter_context(restoring(program, daemon.folder, "alone")) for _ in range(12)]
        for task in tasks:
            assert task.reads() == "alone"
        replace(daemon)
        for task in tasks:
            task.go_on()
            assert task.reads() == "right"


def test_the_daemon_is_to_end(tmp_path: Path, images: Path, program: Path) -> None:
    with (
        serving(tmp_path, "--criu", f"{tmp_path}={images}", ends=False) as daemon,
        restoring(program, tmp_path, "registered") as task,
    ):
        assert task.reads() == "registered"
        daemon.ask("drain")
        task.go_on()
        assert task.reads() == "right"
        assert daemon.process.wait(60) == 0


@pytest.mark.parametrize("stop", ["connected", "registered", "nearly"])
def test_a_restore_that_takes_its_time_is_waited_for_by_a_daemon_that_is_to_end(
    tmp_path: Path, images: Path, program: Path, stop: str
) -> None:
    """Until CRIU has said that it has finished, which fails the restore where nobody hears it."""
    with (
        serving(tmp_path, "--criu", f"{tmp_path}={images}", ends=False) as daemon,
        restoring(program, tmp_path, stop) as task,
    ):
        assert task.reads() == stop
        daemon.ask("drain")
        with pytest.raises(subprocess.TimeoutExpired):  # all pages are in by then
            daemon.process.wait(_IN_S)
        task.go_on()
        assert task.reads() == "right"
        assert daemon.process.wait(60) == 0


def test_a_restore_that_fails_does_not_hold_up_the_end_of_its_daemon(
    tmp_path: Path, images: Path, program: Path
) -> None:
    with serving(tmp_path, "--criu", f"{tmp_path}={images}", ends=False) as daemon:
        with restoring(program, tmp_path, "connected") as task:
            assert task.reads() == "connected"
            daemon.ask("drain")
        assert daemon.process.wait(60) == 0


def test_nothing_is_left_of_a_task_that_has_ended(daemon: Running, program: Path) -> None:
    with restoring(program, daemon.folder) as task:
        assert task.reads() == "right"
        pid = task.process.pid
    daemon.gone(pid)
    before = descriptors(daemon)
    for _ in range(3):
        with restoring(program, daemon.folder, "registered") as task:
            assert task.reads() == "registered"  # it ends in the middle
            pid = task.process.pid
        daemon.gone(pid)
    wait_until(lambda: descriptors(daemon) <= before)


WRONG = {
    "no process": (struct.pack("=i", 0), 0, "no lazy restore of CRIU"),
    "another byte": (struct.pack("=ib", PID, 1), 1, "no lazy restore of CRIU"),
    "no descriptor": (struct.pack("=ib", PID, 0), 0, "without its userfaultfd"),
    "two descriptors": (struct.pack("=ib", PID, 0), 2, "without its userfaultfd"),
    "another descriptor": (struct.pack("=ib", PID, 0), 1, "no userfaultfd"),
    "nothing": (b"", 0, "a restore that failed"),
    "half": (struct.pack("=h", PID), 0, "a restore that failed"),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_who_says_something_else_is_refused(daemon: Running, program: Path, wrong: str) -> None:
    data, fds, complaint = WRONG[wrong]
    before = daemon.log.count("refused")
    with socket.socket(socket.AF_UNIX) as channel, open(os.devnull) as other:
        channel.connect(str(daemon.folder / "lazy-pages.socket"))
        if data:
            socket.send_fds(channel, [data], [other.fileno()] * fds)
        channel.shutdown(socket.SHUT_WR)
        wait_until(lambda: daemon.log.count("refused") > before)
    assert complaint in daemon.log.rpartition("refused")[2]
    with restoring(program, daemon.folder) as task:  # the others are served
        assert task.reads() == "right"


@pytest.mark.parametrize("file", ["pages-1.img", f"pagemap-{PID}.img", f"mm-{PID}.img"])
def test_a_task_whose_images_are_damaged_is_ended(
    tmp_path: Path, images: Path, program: Path, file: str
) -> None:
    damaged = shutil.copytree(images, tmp_path / "images")
    (damaged / file).write_bytes((damaged / file).read_bytes()[:-100])
    with (
        serving(tmp_path / "daemon", "--criu", f"{tmp_path}={damaged}") as daemon,
        restoring(program, tmp_path, "task") as task,
    ):
        assert task.process.wait(60) == -signal.SIGKILL
        daemon.logged("refused: ")
        assert str(damaged / file) in daemon.log


def test_a_task_that_is_not_in_the_images_is_ended(daemon: Running, program: Path) -> None:
    with restoring(program, daemon.folder, "task", pid=PID + 1) as task:
        task.process.wait(60)
    daemon.logged(f"task {PID + 1}, which is not in")
