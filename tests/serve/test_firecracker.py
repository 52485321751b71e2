"""A client of Firecracker's handshake is served every byte, in every form of its message."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cli.children import run
from cli.commands import userfault
from helpers import child
from helpers.skips import absent, need_root
from helpers.waiting import wait_until
from serve.daemons import Running, serving, started
from userfault.serve.talking import Line

FORMS: dict[str, dict[str, Any]] = {
    "as of 1.12": {},
    "in regions": {"regions": 7},
    "as of 1.7": {"form": "kib", "close": 1, "order": "up"},
    "as of 1.6": {"form": "none", "close": 1, "order": "down"},
    "in KiB": {"form": "realkib"},
    "as an object": {"form": "wrapped"},
    "a byte at a time": {"piece": 1, "regions": 2},
    "threads": {"threads": 4, "regions": 3},
    "shared by processes": {"processes": 3, "regions": 2},
    "a balloon": {"drop": 30, "write": 30, "threads": 3, "regions": 2},
}


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory, image: Path) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("daemon")
    with serving(folder, "--firecracker", str(folder / "vm"), "--image", str(image)) as running:
        yield running


@pytest.mark.parametrize("form", FORMS)
def test_every_byte_is_the_images(daemon: Running, vm: Path, image: Path, form: str) -> None:
    with started(vm, daemon.folder / "vm", image, **FORMS[form]) as one:
        assert one.reads() == "right 512"


def test_a_snapshot_in_a_store_is_served_as_a_file_is(
    tmp_path: Path, vm: Path, image: Path
) -> None:
    run("pack", str(image), f"{tmp_path}/store/one")
    arguments = ("--firecracker", str(tmp_path / "vm"), "--snapshot", f"{tmp_path}/store/one")
    with (
        serving(tmp_path / "daemon", *arguments),
        started(vm, tmp_path / "vm", image, regions=3) as one,
    ):
        assert one.reads() == "right 512"


def test_each_image_has_a_socket_of_its_name(tmp_path: Path, vm: Path, image: Path) -> None:
    other = tmp_path / "other"
    other.write_bytes(image.read_bytes()[::-1])
    arguments = [f"--image=a={image}", f"--image=b={other}", f"--firecracker={tmp_path}/{{name}}.s"]
    with serving(tmp_path / "daemon", *arguments):
        for name, path in (("a", image), ("b", other)):
            with started(vm, tmp_path / f"{name}.s", path) as one:
                assert one.reads() == "right 512"


def test_a_worker_that_is_killed_loses_no_client(daemon: Running, vm: Path, image: Path) -> None:
    with started(vm, daemon.folder / "vm", image, stop="sent", regions=2) as one:
        assert one.reads() == "sent"
        for role in ("worker", "supervisor", "spare"):
            daemon.kill(role)
        one.go_on()
        assert one.reads() == "right 512"


@pytest.mark.parametrize("where", ["connected", "half"])
def test_a_worker_that_is_killed_takes_no_message_along(
    daemon: Running, vm: Path, image: Path, where: str
) -> None:
    with started(vm, daemon.folder / "vm", image, stop=where, piece=10) as one:
        assert one.reads() == where
        daemon.kill("worker")
        one.go_on()
        assert one.reads() == "right 512"


def test_who_goes_is_forgotten(daemon: Running, vm: Path, image: Path) -> None:
    with started(vm, daemon.folder / "vm", image, stop="sent") as one:
        assert one.reads() == "sent"
        daemon.logged(f"{one.pid}: served")
        assert [each["pid"] for each in daemon.ask("sessions")["sessions"]] == [one.pid]
    daemon.gone(one.pid)


def test_a_drained_daemon_leaves_clients_that_need_it_no_more(
    tmp_path: Path, vm: Path, image: Path
) -> None:
    arguments = ("--firecracker", str(tmp_path / "vm"), "--image", str(image))
    with (
        serving(tmp_path / "daemon", *arguments) as daemon,
        started(vm, tmp_path / "vm", image, stop="sent", regions=2) as one,
    ):
        assert one.reads() == "sent"
        daemon.logged(f"{one.pid}: served")
        assert daemon.end() == 0
        assert not (tmp_path / "vm").exists()
        one.go_on()
        assert one.reads() == "right 512"


def test_a_worker_that_is_killed_as_it_accepts_loses_nobody(
    tmp_path: Path, vm: Path, image: Path
) -> None:
    door = tmp_path / "door"
    scene = "serve.accept_scenes:serve_with_a_kill"
    family = child.start(scene, str(door), str(image))
    try:
        wait_until(door.exists)
        with started(vm, door, image) as one:
            assert one.reads() == "right 512"
        line = Line.to(f"{door}.control")
        assert line.ask("status")["takeovers"] == 1
        line.ask("drain")
        line.close()
        family.communicate(timeout=60)
    finally:
        family.kill()
        family.communicate()


def test_a_daemon_that_hands_over_loses_nobody(daemon: Running, vm: Path, image: Path) -> None:
    with (
        started(vm, daemon.folder / "vm", image, stop="sent", regions=2, drop=20) as one,
        started(vm, daemon.folder / "vm", image, stop="half", piece=10) as other,
    ):
        assert (one.reads(), other.reads()) == ("sent", "half")
        before = daemon.ask("status")["processes"]
        done = userfault("serve", "--replace", "--control", str(daemon.folder / "control"))
        assert (done.returncode, done.stdout) == (0, "replaced\n"), done.stderr
        after = daemon.ask("status")["processes"]
        assert not set(before.values()) & set(after.values())
        one.go_on()
        other.go_on()
        assert (one.reads(), other.reads()) == ("right 512", "right 512")
    with started(vm, daemon.folder / "vm", image) as later:
        assert later.reads() == "right 512"


def test_huge_pages_are_served_from_an_image_that_ends_in_one(
    tmp_path: Path, vm: Path, pool_lock: object
) -> None:
    """5 MiB in pages of 2 MiB: behind the end of the image, zeros."""
    del pool_lock
    need_root()
    pool = Path("/sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages")
    if not pool.exists():
        absent("this kernel has no pages of 2 MiB")
    before = pool.read_text()
    image = tmp_path / "memory"
    image.write_bytes(b"".join(number.to_bytes(8, "little") * 512 for number in range(1280)))
    arguments = ("--firecracker", str(tmp_path / "vm"), "--image", str(image))
    pool.write_text(str(int(before) + 8))
    try:
        with serving(tmp_path / "daemon", *arguments):
            options = {"huge": 1, "regions": 2, "drop": 40, "write": 40}
            with started(vm, tmp_path / "vm", image, **options) as one:
                assert one.reads() == "right 3"
    finally:
        pool.write_text(before)


def test_processes_that_share_memory_are_served_from_one_state(
    daemon: Running, vm: Path, image: Path
) -> None:
    """One mapping, with a context each; and so it is after a kill."""
    options = {"processes": 3, "regions": 2, "stop": "sent"}
    with started(vm, daemon.folder / "vm", image, **options) as one:
        assert one.reads() == "sent"

        def mappings() -> list[int]:
            sessions = daemon.ask("sessions")["sessions"]
            return [each["contexts"] for session in sessions for each in session["mappings"]]

        wait_until(lambda: mappings() == [3])
        daemon.kill("worker")
        assert mappings() == [3]
        one.go_on()
        assert one.reads() == "right 512"
    daemon.gone(one.pid)


def test_what_one_has_unmapped_is_the_images_for_a_process_that_comes_later(
    daemon: Running, image: Path
) -> None:
    path = str(daemon.folder / "vm")
    seen = child.run("serve.shared_scenes:comes_later", path, str(image))
    assert seen == {"began": True, "right": True}
