"""Many clients at once, whoever is killed meanwhile."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from cli.commands import userfault
from helpers.waiting import wait_until
from serve.daemons import Running, Vm, serving, started
from userfault.api.daemon import replace
from userfault.serve.talking import Line

CLIENTS = 24


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory, image: Path) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("daemon")
    with serving(folder, "--firecracker", str(folder / "vm"), "--image", str(image)) as running:
        yield running


@pytest.fixture
def clients(daemon: Running, vm: Path, image: Path) -> Iterator[list[Vm]]:
    """All of them have connected, and none has touched a page."""
    with contextlib.ExitStack() as end:
        found = []
        for number in range(CLIENTS):
            options = {"stop": "sent", "seed": number + 1, "drop": 10, "write": 10}
            found.append(end.enter_context(started(vm, daemon.folder / "vm", image, **options)))
        for one in found:
            assert one.reads() == "sent"
        yield found


def replaced(daemon: Running) -> None:
    done = userfault("serve", "--replace", "--control", str(daemon.folder / "control"))
    assert done.returncode == 0, done.stderr


CHANGES: dict[str, Callable[[Running], object]] = {
    "nothing": lambda _: None,
    "a worker that is killed": lambda daemon: daemon.kill("worker"),
    "a supervisor that is killed": lambda daemon: daemon.kill("supervisor"),
    "all but one, one after the other": lambda daemon: [
        daemon.kill(role) for role in ("spare", "worker", "supervisor", "worker")
    ],
    "a handover": replaced,
}


@pytest.mark.parametrize("change", CHANGES)
def test_every_client_sees_every_byte(daemon: Running, clients: list[Vm], change: str) -> None:
    """While they fault."""
    for one in clients:
        one.go_on()
    CHANGES[change](daemon)
    assert [one.reads() for one in clients] == ["right 512"] * CLIENTS


class Kills:
    """A line to a daemon whose worker is killed as soon as it has begun to hand over."""

    def __init__(self, daemon: Running) -> None:
        self._daemon = daemon
        self._line = Line.to(str(daemon.folder / "control"))
        self.left = 1

    def ask(self, command: str, fds: Sequence[int] = (), **arguments: Any) -> dict[str, Any]:
        answer = self._line.ask(command, fds, **arguments)
        if command == "replace" and self.left:
            self.left -= 1
            self._daemon.kill("worker")
        return answer

    def close(self) -> None:
        self._line.close()


def test_a_handover_whose_worker_is_killed_is_made_by_the_next_one(daemon: Running) -> None:
    """Whoever asked for it asks again, and does not wait in vain."""
    before = daemon.member("supervisor")
    with contextlib.closing(Kills(daemon)) as line:
        replace(line)
    assert not line.left
    assert daemon.member("supervisor") != before


def test_one_that_dies_in_a_fault_is_nobodys_loss(daemon: Running, clients: list[Vm]) -> None:
    for one in clients:
        one.go_on()
    for one in clients[::2]:
        one.process.kill()
    assert [one.reads() for one in clients[1::2]] == ["right 512"] * (CLIENTS // 2)
    for one in clients[::2]:
        daemon.gone(one.pid)


def test_nothing_of_those_who_went_is_left(daemon: Running, vm: Path, image: Path) -> None:
    """As many descriptors after twenty clients as after one, and after three workers."""

    def held() -> int:
        return len(list(Path(f"/proc/{daemon.member('worker')}/fd").iterdir()))

    def come_and_go(count: int) -> None:
        for _ in range(count):
            with started(vm, daemon.folder / "vm", image, stop="sent") as one:
                assert one.reads() == "sent"
            daemon.gone(one.pid)

    come_and_go(1)
    before = held()
    come_and_go(20)
    wait_until(lambda: held() <= before)
    for _ in range(3):
        daemon.kill("worker")
    wait_until(lambda: held() <= before)
    replaced(daemon)
    wait_until(lambda: held() <= before)


@pytest.mark.parametrize("lack", ["clients", "descriptors"])
def test_who_finds_no_room_waits_for_it(tmp_path: Path, vm: Path, image: Path, lack: str) -> None:
    """Nobody is refused, and who is served is served on."""
    arguments = ["--firecracker", str(tmp_path / "vm"), "--image", str(image)]
    before = []
    if lack == "clients":
        arguments += ["--max-clients", "4"]
    else:
        before = ["bash", "-c", 'ulimit -n 100; exec "$0" "$@"']
    with (
        serving(tmp_path / "daemon", *arguments, before=before) as daemon,
        contextlib.ExitStack() as end,
    ):
        found = [
            end.enter_context(started(vm, tmp_path / "vm", image, stop="sent")) for _ in range(16)
        ]
        for one in found:
            assert one.reads() == "sent"
        daemon.logged("nobody is let in")
        for one in found:
            one.go_on()
        assert [one.reads() for one in found] == ["right 512"] * len(found)
        assert "refused" not in daemon.log


def test_with_a_share_of_a_cpu_each_sees_every_byte(tmp_path: Path, vm: Path, image: Path) -> None:
    """A small one, and the next worker counts it anew."""
    arguments = ["--firecracker", str(tmp_path / "vm"), "--image", str(image)]
    with serving(tmp_path / "daemon", *arguments, "--client-cpu", "1") as daemon:
        for _ in range(2):
            with started(vm, tmp_path / "vm", image, stop="sent") as one:
                assert one.reads() == "sent"
                daemon.kill("worker")
                one.go_on()
                assert one.reads() == "right 512"
