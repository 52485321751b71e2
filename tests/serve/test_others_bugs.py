"""What went wrong elsewhere (docs/serve.md), where no other test has it."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from helpers.waiting import wait_until
from serve.daemons import Running, serving, started

STOPS = ("connected", "half", "sent", "seen")


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory, image: Path) -> Iterator[Running]:
    """One that fills everything at once, as long as nothing waits."""
    folder = tmp_path_factory.mktemp("daemon")
    arguments = ("--firecracker", str(folder / "vm"), "--image", str(image), "--background")
    with serving(folder, *arguments) as running:
        yield running


def held(daemon: Running) -> int:
    """Descriptors of its family."""
    return len(list(Path(f"/proc/{daemon.member('worker')}/fd").iterdir()))


def test_what_was_to_be_filled_for_one_is_not_filled_into_the_next(
    daemon: Running, vm: Path, image: Path
) -> None:
    """Each is killed while its memory is filled; the next one has its descriptors' numbers."""
    for seed in range(1, 13):
        with started(vm, daemon.folder / "vm", image, stop="sent") as one:
            assert one.reads() == "sent"
            one.process.kill()
        with started(vm, daemon.folder / "vm", image, seed=seed, drop=20) as next_one:
            assert next_one.reads() == "right 512"
    assert daemon.ask("status")["takeovers"] == 0


@pytest.mark.parametrize("stop", STOPS)
def test_nothing_is_left_of_one_that_ends_halfway(
    daemon: Running, vm: Path, image: Path, stop: str
) -> None:
    wait_until(lambda: not daemon.ask("sessions")["sessions"])
    before = held(daemon)
    for _ in range(5):
        with started(vm, daemon.folder / "vm", image, stop=stop) as one:
            assert one.reads() == stop
    wait_until(lambda: daemon.ask("sessions")["sessions"] == [])
    wait_until(lambda: daemon.ask("sessions")["waiting"] == 0)
    wait_until(lambda: held(daemon) <= before)


@pytest.mark.parametrize("how", ["moved", "removed", "replaced"])
def test_an_image_may_go_while_it_is_shown(tmp_path: Path, vm: Path, image: Path, how: str) -> None:
    """It was opened when the daemon began: who is there, and who comes, is shown that."""
    place = tmp_path / "memory"
    place.write_bytes(image.read_bytes())
    arguments = ("--firecracker", str(tmp_path / "vm"), "--image", str(place))
    with (
        serving(tmp_path / "daemon", *arguments) as daemon,
        started(vm, tmp_path / "vm", image, stop="sent") as one,
    ):
        assert one.reads() == "sent"
        daemon.logged(f"{one.pid}: served")
        os.rename(place, tmp_path / "elsewhere")
        if how == "removed":
            os.unlink(tmp_path / "elsewhere")
        elif how == "replaced":
            place.write_bytes(bytes(len(image.read_bytes())))
        one.go_on()
        assert one.reads() == "right 512"
        with started(vm, tmp_path / "vm", image) as later:
            assert later.reads() == "right 512"


def test_a_disk_that_is_full_of_logs_stops_nobody(tmp_path: Path, vm: Path, image: Path) -> None:
    """Each line that it says fails with ENOSPC."""
    arguments = ("--firecracker", str(tmp_path / "vm"), "--image", str(image))
    full = ["bash", "-c", 'exec "$0" "$@" 2>/dev/full']
    with serving(tmp_path / "daemon", *arguments, before=full) as daemon:
        with contextlib.ExitStack() as end:
            found = [
                end.enter_context(started(vm, tmp_path / "vm", image, stop="sent", drop=10))
                for _ in range(4)
            ]
            for one in found:
                assert one.reads() == "sent"
                one.go_on()
            daemon.kill("worker")
            assert [one.reads() for one in found] == ["right 512"] * 4
        with started(vm, tmp_path / "vm", image, stop="half") as refused:
            assert refused.reads() == "half"  # which is told, or would be
        wait_until(lambda: daemon.ask("metrics")["refused"] == 1)
