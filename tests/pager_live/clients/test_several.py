"""One loop, several clients: what one does, and how it ends, none of the others notices."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from helpers import child
from helpers.family import descriptors
from helpers.skips import need_root
from pager_live.clients.door import Opened, opened
from userfault.pager.drivers.record.status import Shown

SCENES = "pager_live.clients.several_scenes:"
MEMORIES = ["anon", "shmem", "shmem-private"]


@pytest.fixture
def pager(tmp_path: Path) -> Iterator[Opened]:
    with opened(tmp_path / "door") as made:
        yield made


def start(scene: str, pager: Opened, *arguments: object) -> subprocess.Popen[str]:
    return child.start(SCENES + scene, pager.path, *map(_plain, arguments))


def _plain(argument: object) -> object:
    return str(argument) if isinstance(argument, Path) else argument


def wait_until(happened: Callable[[], bool], *running: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 60
    while not happened():
        for each in running:
            assert each.poll() is None, each.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.002)


def serves(pager: Opened) -> int:
    """How many address spaces it serves."""
    worker = pager.member(Shown.WORKER)
    found = 0
    for name in os.listdir(f"/proc/{worker}/fd"):
        try:
            found += "userfaultfd" in os.readlink(f"/proc/{worker}/fd/{name}")
        except OSError:
            continue
    return found


def test_whatever_one_client_does_or_suffers_the_others_read_right_bytes(
    pager: Opened, image: Path, tmp_path: Path
) -> None:
    reports = [tmp_path / f"report-{number}" for number in range(6)]
    readers = [
        start("reads_everything", pager, image, memory, seed, report)
        for seed, (memory, report) in enumerate(zip(MEMORIES, reports, strict=False))
    ]
    hanging = start("waits_for_ever", pager, reports[3])
    rubbish = start("sends_rubbish", pager, reports[4])
    failing = start("has_a_source_that_fails", pager, reports[5])
    everybody = [*readers, hanging, rubbish, failing]
    try:
        going = start("comes_and_goes", pager, image, 5)
        leaving = start("leaves_without_a_word", pager, image)
        wait_until(lambda: all(report.exists() for report in reports), *everybody)
        assert child.finish(going) == 5
        assert child.finish(leaving) == 8
        hanging.kill()
        hanging.communicate()
        # Those who have ended are served no more: three readers and the one that fails are left.
        wait_until(lambda: serves(pager) == 4, *readers, rubbish, failing)
        pager.kill_worker()
        for report in reports:
            report.unlink()
        for each in readers:
            assert child.finish(each) == {"right": True, "read": 512}
        assert child.finish(rubbish) == {"answered": 300}
        found = child.finish(failing)
        assert (found["before"], found["failed"], found["after"]) == (5, True, 41)
        assert "page 5 is broken" in found["told"]
        assert pager.takeovers == 1  # the kill, and no error of its own
        assert child.finish(start("comes_and_goes", pager, image, 2)) == 2
        wait_until(lambda: serves(pager) == 0)
    finally:
        for each in everybody:
            each.kill()
            each.communicate()


def test_clients_that_have_gone_leave_no_descriptor(
    pager: Opened, image: Path, tmp_path: Path
) -> None:
    def held() -> int:
        return descriptors(pager.member(Shown.WORKER))

    assert child.finish(start("comes_and_goes", pager, image, 1)) == 1
    wait_until(lambda: serves(pager) == 0)
    before = held()
    report = tmp_path / "report"
    rubbish = start("sends_rubbish", pager, report)
    wait_until(report.exists, rubbish)
    report.unlink()
    assert child.finish(start("comes_and_goes", pager, image, 20)) == 20
    assert child.finish(start("leaves_without_a_word", pager, image)) == 8
    child.finish(rubbish)
    wait_until(lambda: held() <= before)


def test_clients_that_came_before_and_after_survive_every_death_in_the_family(
    pager: Opened, image: Path, tmp_path: Path
) -> None:
    reports = [tmp_path / f"report-{number}" for number in range(3)]
    clients = []
    try:
        for number, role in enumerate((Shown.WORKER, Shown.SUPERVISOR, Shown.SPARE)):
            report = reports[number]
            clients.append(start("reads_everything", pager, image, "anon", number, report))
            wait_until(report.exists, *clients)
            victim = pager.member(role)
            os.kill(victim, signal.SIGKILL)
            pager.member(role, but=victim)
        pager.kill_worker()
        for report in reports:
            report.unlink()
        assert [child.finish(each)["right"] for each in clients] == [True] * 3
    finally:
        for each in clients:
            each.kill()
            each.communicate()


def test_the_child_of_a_client_that_has_ended_is_served_beside_the_others(
    pager: Opened, image: Path, tmp_path: Path
) -> None:
    need_root()  # fork events
    reports, told = [tmp_path / "first", tmp_path / "second"], tmp_path / "told"
    reader = start("reads_everything", pager, image, "anon", 4, reports[0])
    parent = start("leaves_a_child", pager, image, reports[1], told)
    try:
        wait_until(lambda: all(report.exists() for report in reports), reader)
        wait_until(lambda: parent.poll() is not None, reader)
        wait_until(lambda: serves(pager) == 2, reader)  # the reader and the child
        pager.kill_worker()
        reports[1].unlink()
        wait_until(told.exists, reader)
        wait_until(lambda: serves(pager) == 1, reader)  # it was seen to end
        assert told.read_text() == "301 2"
        reports[0].unlink()
        assert child.finish(reader)["right"]
    finally:
        for each in (reader, parent):
            each.kill()
            each.communicate()


def test_a_handover_that_one_client_asks_for_keeps_every_other(
    pager: Opened, image: Path, tmp_path: Path
) -> None:
    report = tmp_path / "report"
    reader = start("reads_everything", pager, image, "shmem", 3, report)
    try:
        wait_until(report.exists, reader)
        before = pager.member(Shown.WORKER)
        assert child.finish(start("replaces_the_pager", pager, image)) == [2, 101]
        assert pager.member(Shown.WORKER) != before
        report.unlink()
        assert child.finish(reader)["right"]
    finally:
        reader.kill()
        reader.communicate()


def test_a_client_that_fills_its_eventfd_stops_nobody(
    pager: Opened, image: Path, tmp_path: Path
) -> None:
    report = tmp_path / "report"
    reader = start("reads_everything", pager, image, "anon", 5, report)
    try:
        wait_until(report.exists, reader)
        found = child.finish(start("fills_its_eventfd", pager, image))
        assert found == {"right": True, "finished": True}
        report.unlink()
        assert child.finish(reader)["right"]
        assert pager.takeovers == 0
    finally:
        reader.kill()
        reader.communicate()


def test_a_client_for_whom_every_worker_fails_is_ended_and_no_other(
    tmp_path: Path, image: Path
) -> None:
    report = tmp_path / "report"
    with opened(tmp_path / "door", planted=True) as pager:
        reader = start("reads_everything", pager, image, "anon", 9, report)
        asking = None
        try:
            wait_until(report.exists, reader)
            asking = start("replaces_the_pager", pager, image)
            asking.communicate(timeout=60)
            assert asking.returncode == -signal.SIGKILL
            wait_until(lambda: pager.takeovers == 3, reader)
            report.unlink()
            assert child.finish(reader)["right"]
        finally:
            for each in filter(None, (reader, asking)):
                each.kill()
                each.communicate()
