"""A daemon that runs is asked, and told, by its control socket and by signals."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from cli.children import run
from cli.commands import userfault
from helpers import child
from helpers.skips import need_root
from serve.daemons import Running, serving, started
from userfault.kernel.errors import PagerError
from userfault.serve.talking import Line


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory, image: Path) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("daemon")
    arguments = ("--firecracker", str(folder / "vm"), "--image", f"first={image}", "--log", "json")
    with serving(folder, *arguments) as running:
        yield running


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory, image: Path) -> Path:
    """Another image."""
    path = tmp_path_factory.mktemp("other") / "memory"
    path.write_bytes(image.read_bytes()[::-1])
    return path


def ask(daemon: Running, *arguments: str) -> subprocess.CompletedProcess[str]:
    done = userfault(arguments[0], "--control", str(daemon.folder / "control"), *arguments[1:])
    assert done.returncode == 0, done.stderr
    return done


def test_sessions_are_told(daemon: Running, vm: Path, image: Path) -> None:
    with started(vm, daemon.folder / "vm", image, stop="seen", regions=2) as one:
        assert one.reads() == "seen"
        found = json.loads(ask(daemon, "sessions", "--json").stdout)
        (mine,) = [each for each in found["sessions"] if each["pid"] == one.pid]
        (mapping,) = mine["mappings"]
        assert mapping["regions"] == 2
        assert mapping["counters"]["copied"] == 512
        assert str(one.pid) in ask(daemon, "sessions").stdout


def test_an_image_is_attached_with_a_socket_of_its_own(
    daemon: Running, vm: Path, other: Path, tmp_path: Path
) -> None:
    door = tmp_path / "door"
    ask(daemon, "attach", "--firecracker", str(door), f"second={other}")
    with started(vm, door, other) as one:
        assert one.reads() == "right 512"
    daemon.kill("worker")  # what was attached is recorded
    with started(vm, door, other) as one:
        assert one.reads() == "right 512"
    ask(daemon, "detach", "second")
    assert not door.exists()
    images = [each["name"] for each in daemon.ask("status")["images"]]
    assert "second" not in images


def test_a_snapshot_of_a_store_is_attached(
    daemon: Running, vm: Path, other: Path, tmp_path: Path
) -> None:
    run("pack", str(other), f"{tmp_path}/store/one")
    ask(daemon, "attach", "--firecracker", str(tmp_path / "door"), f"third={tmp_path}/store/one")
    with started(vm, tmp_path / "door", other) as one:
        assert one.reads() == "right 512"
    ask(daemon, "detach", "third")


def test_an_image_is_attached_to_one_process(
    daemon: Running, vm: Path, image: Path, other: Path
) -> None:
    """It is told before it says what it wants; another one at the same socket gets the socket's."""
    with (
        started(vm, daemon.folder / "vm", other, stop="connected") as mine,
        started(vm, daemon.folder / "vm", image) as others,
    ):
        assert mine.reads() == "connected"
        ask(daemon, "attach", "--pid", str(mine.pid), f"mine={other}")
        mine.go_on()
        assert mine.reads() == "right 512"
        assert others.reads() == "right 512"


def test_lines_of_the_log_are_objects(daemon: Running, vm: Path, image: Path) -> None:
    with started(vm, daemon.folder / "vm", image) as one:
        assert one.reads() == "right 512"
    daemon.logged(f"firecracker {one.pid}")
    lines = [json.loads(line) for line in daemon.log.splitlines()]
    assert all({"time", "process", "about", "text"} == set(line) for line in lines)
    assert any(line["about"] == f"firecracker {one.pid}" for line in lines)


@pytest.mark.parametrize(
    "request_",
    [
        b"nonsense\n",
        b"[]\n",
        b'{"version": 2, "command": "status"}\n',
        b'{"version": 1, "command": "nonsense"}\n',
        b'{"version": 1, "command": "attach", "arguments": {"name": 1}}\n',
        b'{"version": 1, "command": "attach", "arguments": {"name": "new"}}\n',
        b'{"version": 1, "command": "drain", "arguments": {"much": true}}\n',
    ],
)
def test_a_request_that_makes_no_sense_is_refused(daemon: Running, request_: bytes) -> None:
    with socket.socket(socket.AF_UNIX) as channel:
        channel.connect(str(daemon.folder / "control"))
        channel.sendall(request_)
        answer = json.loads(channel.makefile().readline())
        assert answer["ok"] is False
        assert answer["what"]
        channel.sendall(b'{"version": 1, "command": "status"}\n')
        assert json.loads(channel.makefile().readline())["ok"]


def test_a_request_without_an_end_ends_the_connection(daemon: Running) -> None:
    with socket.socket(socket.AF_UNIX) as channel:
        channel.connect(str(daemon.folder / "control"))
        with pytest.raises(ConnectionError):
            channel.sendall(b"x" * (64 << 20))
    daemon.ask("status")


def test_where_no_daemon_listens_that_is_said(tmp_path: Path) -> None:
    with pytest.raises(PagerError, match="no daemon can be asked"):
        Line.to(str(tmp_path / "nothing"))


def test_the_hangup_signal_opens_images_anew(
    tmp_path: Path, vm: Path, image: Path, other: Path
) -> None:
    """Who is served is shown what it was; who comes later is shown what has taken its place."""
    place = tmp_path / "memory"
    place.write_bytes(image.read_bytes())
    arguments = ("--firecracker", str(tmp_path / "vm"), "--image", str(place))
    with (
        serving(tmp_path / "daemon", *arguments) as daemon,
        started(vm, tmp_path / "vm", image, stop="sent") as before,
    ):
        assert before.reads() == "sent"
        daemon.logged(f"{before.pid}: served")
        (tmp_path / "new").write_bytes(other.read_bytes())
        os.replace(tmp_path / "new", place)
        daemon.process.send_signal(signal.SIGHUP)
        assert daemon.process.stdout is not None
        assert daemon.process.stdout.readline() == "reloaded\n"
        with started(vm, tmp_path / "vm", other) as after:
            assert after.reads() == "right 512"
        before.go_on()
        assert before.reads() == "right 512"


def test_systemd_passes_sockets_and_hears_when_it_serves(
    tmp_path: Path, vm: Path, image: Path
) -> None:
    with (
        socket.socket(socket.AF_UNIX) as door,
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as told,
    ):
        door.bind(str(tmp_path / "door"))
        door.listen()
        told.bind(str(tmp_path / "told"))
        told.settimeout(60)
        script = 'exec 3<&"$0"; export LISTEN_PID=$$; exec "$@"'
        with serving(
            tmp_path / "daemon",
            "--image",
            str(image),
            before=["bash", "-c", script, str(door.fileno())],
            pass_fds=[door.fileno()],
            environment={
                "LISTEN_FDS": "1",
                "LISTEN_FDNAMES": "firecracker",
                "NOTIFY_SOCKET": str(tmp_path / "told"),
            },
        ):
            assert told.recv(100) == b"READY=1"
            with started(vm, tmp_path / "door", image) as one:
                assert one.reads() == "right 512"
        assert told.recv(100) == b"STOPPING=1"
    assert (tmp_path / "door").exists()  # it is systemd's


def test_who_is_not_allowed_is_refused(image: Path) -> None:
    """The socket lets it in, by its group; the daemon does not."""
    need_root()
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        Path(folder).chmod(0o711)
        door = f"{folder}/door"
        arguments = ("--firecracker", door, "--image", str(image), "--group", str(child.NOBODY))
        with serving(Path(folder) / "daemon", *arguments, "--allow-user", "daemon") as daemon:
            assert child.run("serve.native_scenes:knock_as_nobody", door) == "closed"
            daemon.logged(f"user {child.NOBODY} is none of those who may")


def test_no_name_is_no_images(tmp_path: Path) -> None:
    """The doors that show no image are nobody's to shut, and no image can be called so."""
    with serving(tmp_path / "daemon", "--native", str(tmp_path / "native")) as daemon:
        daemon.ask("detach", name="")
        assert len(daemon.ask("status")["doors"]) == 2
        with pytest.raises(PagerError, match="without a name"):
            daemon.ask("attach", name="", pid=1)
