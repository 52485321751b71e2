"""A mapping's trace tells every fault, survives a worker, and never costs a fault."""

from __future__ import annotations

import fcntl
import os
import stat
from pathlib import Path

import pytest

from helpers import child
from helpers.waiting import wait_until
from userfault.pager.core import trace
from userfault.pager.drivers.record.tracing import Recorder

SCENES = "pager_live.record.trace_scenes:"


def test_every_first_touch_is_in_it_in_order(image: Path, tmp_path: Path) -> None:
    pages = [5, 1900, 3, 5, 4, 2000]
    path = tmp_path / "a trace \udcff"
    found = child.run(SCENES + "touched", str(image), str(path), pages)
    assert found == {
        "right": True,
        "faults": [5, 1900, 3, 4, 2000],
        "filled": True,
        "in time": True,
        "header": [2049, 4096, "anon", "file", True],
    }
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_another_worker_records_on(image: Path, tmp_path: Path) -> None:
    found = child.run(SCENES + "worker_killed", str(image), str(tmp_path / "trace"))
    assert found == {"faults": [3, 7], "resumed": 1}


def test_two_mappings_do_not_write_into_one_file(image: Path, tmp_path: Path) -> None:
    found = child.run(SCENES + "one_path_for_two", str(image), str(tmp_path / "trace"))
    assert found == ["another mapping writes its trace there", "1"]


def test_a_place_that_cannot_be_written_is_told_before_anything_is_served(
    image: Path, tmp_path: Path
) -> None:
    nowhere = child.run(SCENES + "no_file", str(image), str(tmp_path / "none" / "trace"))
    assert "No such file or directory" in nowhere
    os.mkfifo(tmp_path / "pipe")
    assert "cure" in child.run(SCENES + "no_file", str(image), str(tmp_path / "pipe"))
    assert "cure" in child.run(SCENES + "no_file", str(image), "/dev/full")


def test_a_disk_that_is_full_ends_the_trace_is_told_once_and_costs_nothing() -> None:
    said: list[str] = []
    fd = os.open("/dev/full", os.O_WRONLY)
    try:
        recorder = Recorder(fd, said.append, resumed=False)
        recorder.fault(1, 0, 0)
        wait_until(lambda: not recorder.open)
        recorder.filled(1, 1, 0, True)
        assert recorder.end()
    finally:
        os.close(fd)
    assert said == ["the trace ends here: No space left on device"]


def test_a_file_system_that_hangs_does_not_hold_the_mapping_that_goes() -> None:
    """A pipe that nobody empties stands for it."""
    out, into = os.pipe()
    fcntl.fcntl(into, fcntl.F_SETPIPE_SZ, 4096)
    recorder = Recorder(into, print, resumed=False)
    for page in range(1000):
        recorder.fault(page, 0, 0)
    assert not recorder.end()
    os.close(out)  # EPIPE: its thread ends
    assert recorder.end()
    os.close(into)


def test_a_trace_has_an_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    header = trace.begin(trace.Header(page_size=4096, pages=10))
    path = tmp_path / "trace"
    path.write_bytes(header)
    monkeypatch.setattr(trace, "MOST_BYTES", len(header) + 100 * trace.RECORD.size)
    fd = os.open(path, os.O_WRONLY | os.O_APPEND)
    recorder = Recorder(fd, print, resumed=False)
    for _ in range(200):
        recorder.fault(1, 0, 0)
    assert recorder.end()
    os.close(fd)
    records = trace.decode(path.read_bytes()).records
    assert records[-1].what == trace.FULL
    assert not recorder.open
