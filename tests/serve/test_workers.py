"""Several workers behind one set of sockets: clients are spread, and nobody is lost."""

from __future__ import annotations

import contextlib
import os
import signal
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cli.commands import userfault
from helpers.waiting import wait_until
from serve.daemons import Running, Vm, serving, started

WORKERS = 3
ROLES = ("worker", "supervisor", "spare")


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory, image: Path) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("daemon")
    arguments = ("--firecracker", str(folder / "vm"), "--image", f"first={image}")
    with serving(folder, *arguments, "--workers", str(WORKERS)) as running:
        yield running


@pytest.fixture
def daemon(running: Running) -> Running:
    """It serves nobody at first."""
    wait_until(lambda: not running.ask("sessions")["sessions"])
    return running


@contextlib.contextmanager
def clients(daemon: Running, vm: Path, image: Path, count: int, **more: Any) -> Iterator[list[Vm]]:
    """So many that are served and have touched nothing.

    They come one after the other: of some that come at once each worker may take one before it has
    heard of those of the others.
    """
    with contextlib.ExitStack() as end:
        found: list[Vm] = []
        while len(found) < count:
            seed = len(found) + 1
            found.append(
                end.enter_context(
                    started(vm, daemon.folder / "vm", image, stop="sent", seed=seed, **more)
                )
            )
            assert found[-1].reads() == "sent"
            wait_until(lambda: len(daemon.ask("sessions")["sessions"]) >= len(found))
        yield found


def families(daemon: Running) -> list[dict[str, int]]:
    """The processes of each."""
    return [dict(each["processes"]) for each in daemon.ask("status")["workers"]]


def by_worker(daemon: Running) -> Counter[int]:
    return Counter(each["worker"] for each in daemon.ask("sessions")["sessions"])


def test_clients_are_spread_and_seen_as_one_daemons(daemon: Running, vm: Path, image: Path) -> None:
    with clients(daemon, vm, image, 12) as found:
        assert by_worker(daemon) == dict.fromkeys(range(WORKERS), 4)
        for one in found:
            one.go_on()
        assert [one.reads() for one in found] == ["right 512"] * 12
        metrics = daemon.ask("metrics")
        assert metrics["workers"] == WORKERS
        assert metrics["accepted"] >= 12
        assert metrics["counters"]["copied"] >= 12 * 512


def test_one_that_comes_later_is_served_by_who_has_fewest(
    daemon: Running, vm: Path, image: Path
) -> None:
    with clients(daemon, vm, image, 6) as found:
        sessions = daemon.ask("sessions")["sessions"]
        left = {each["pid"] for each in sessions if each["worker"] == 1}
        for one in found:
            if one.pid in left:
                one.process.kill()
                daemon.gone(one.pid)
        with clients(daemon, vm, image, 2):
            wait_until(lambda: by_worker(daemon) == dict.fromkeys(range(WORKERS), 2))


def test_memory_that_several_processes_map_is_one_workers(
    daemon: Running, vm: Path, image: Path
) -> None:
    """However many come by, and whoever accepts them."""
    with contextlib.ExitStack() as end:
        found = [
            end.enter_context(started(vm, daemon.folder / "vm", image, stop="sent", processes=3))
            for _ in range(4)
        ]
        for one in found:
            assert one.reads() == "sent"
        wait_until(lambda: len(daemon.ask("sessions")["sessions"]) == 12)
        mappings = [
            len(mapping["mappings"]) and mapping["mappings"][0]["contexts"]
            for mapping in daemon.ask("sessions")["sessions"]
        ]
        assert sorted(mappings) == [0] * 8 + [3] * 4
        for one in found:
            one.go_on()
        assert [one.reads() for one in found] == ["right 512"] * 4


@pytest.mark.parametrize("role", ROLES)
def test_whoever_is_killed_of_any_of_them_nobody_is_lost(
    daemon: Running, vm: Path, image: Path, role: str
) -> None:
    """One after the other, while clients fault and others come."""
    with clients(daemon, vm, image, 9, drop=10) as found:
        for number, family in enumerate(families(daemon)):
            for one in found[number::WORKERS]:
                one.go_on()
            os.kill(family[role], signal.SIGKILL)
            wait_until(lambda: 0 not in families(daemon)[number].values())  # noqa: B023
            wait_until(lambda: families(daemon)[number][role] != family[role])  # noqa: B023
        with clients(daemon, vm, image, 3) as more:
            for one in more:
                one.go_on()
            assert [one.reads() for one in (*found, *more)] == ["right 512"] * 12


def test_all_of_them_hand_over(daemon: Running, vm: Path, image: Path) -> None:
    before = families(daemon)
    with clients(daemon, vm, image, 6) as found:
        for one in found[::2]:
            one.go_on()
        done = userfault("serve", "--replace", "--control", str(daemon.folder / "control"))
        assert done.returncode == 0, done.stderr
        for one in found[1::2]:
            one.go_on()
        assert [one.reads() for one in found] == ["right 512"] * 6
    old = {pid for each in before for pid in each.values()}
    assert not old & {pid for each in families(daemon) for pid in each.values()}


def test_an_image_is_attached_to_all_and_detached_from_all(
    daemon: Running, vm: Path, image: Path, tmp_path: Path
) -> None:
    control, door = str(daemon.folder / "control"), tmp_path / "door"
    (tmp_path / "other").write_bytes(image.read_bytes()[::-1])
    other = tmp_path / "other"
    done = userfault("attach", "--control", control, "--firecracker", str(door), f"second={other}")
    assert done.returncode == 0, done.stderr
    with contextlib.ExitStack() as end:
        found = [end.enter_context(started(vm, door, other)) for _ in range(6)]
        assert [one.reads() for one in found] == ["right 512"] * 6
    assert userfault("detach", "--control", control, "second").returncode == 0
    assert not door.exists()


def test_a_family_that_dies_as_a_whole_costs_its_own_clients_alone(
    tmp_path: Path, vm: Path, image: Path
) -> None:
    arguments = ("--firecracker", str(tmp_path / "daemon" / "vm"), "--image", str(image))
    with serving(tmp_path / "daemon", *arguments, "--workers", "2", ends=False) as daemon:
        with clients(daemon, vm, image, 4) as found:
            whose = {each["pid"]: each["worker"] for each in daemon.ask("sessions")["sessions"]}
            pids = families(daemon)[0].values()
            for number in (signal.SIGSTOP, signal.SIGKILL):  # so that none goes on for another
                for pid in pids:
                    os.kill(pid, number)
            for one in found:
                if whose[one.pid] == 0:
                    assert one.process.wait(60) == -signal.SIGKILL
            for one in found:
                if whose[one.pid] == 1:
                    one.go_on()
                    assert one.reads() == "right 512"
            with started(vm, daemon.folder / "vm", image) as later:
                assert later.reads() == "right 512"
        assert daemon.end() == 1  # a service manager is to know
        daemon.logged("worker 0 was killed")
