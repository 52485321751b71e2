"""What a daemon counts, as Prometheus reads it."""

from __future__ import annotations

import socket
import urllib.request
from pathlib import Path

import pytest

from serve.daemons import serving, started
from userfault.pager.drivers.serving.latency import BOUNDS, Histogram

parser = pytest.importorskip("prometheus_client.parser")


def free_port() -> int:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        return int(held.getsockname()[1])


def scraped(port: int) -> dict[str, float]:
    """The samples, by name and labels."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=60) as answer:
        text = answer.read().decode()
    return {
        " ".join([sample.name, *sample.labels.values()]): sample.value
        for family in parser.text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_faults_clients_and_waits_are_counted(tmp_path: Path, vm: Path, image: Path) -> None:
    port = free_port()
    arguments = ["--firecracker", str(tmp_path / "vm"), "--image", str(image)]
    with serving(tmp_path / "daemon", *arguments, "--metrics", f":{port}") as daemon:
        with started(vm, tmp_path / "vm", image, stop="seen", order="random") as one:
            assert one.reads() == "seen"
            found = scraped(port)
            assert found["userfault_up"] == 1
            assert found["userfault_workers"] == 1
            assert found["userfault_clients firecracker"] == 1
            assert found["userfault_copied_total"] == 512
            assert found["userfault_pages unsettled"] == 0
            faults = found["userfault_faults_total"]
            waits = [
                value
                for name, value in found.items()
                if name.startswith("userfault_fault_seconds_count")
            ]
            assert 0 < sum(waits) < faults + 64  # one batch in 16 stands for all
        daemon.gone(one.pid)
        found = scraped(port)
        assert "userfault_clients firecracker" not in found
        assert found["userfault_copied_total"] == 512  # what has gone is counted still
        assert found["userfault_accepted_total"] >= 1


def test_buckets_hold_what_is_below_their_bounds() -> None:
    for seconds in (1e-7, 3.9e-6, 4.1e-6, 1e-3, 0.9, 20.0, 1e9):
        histogram = Histogram()
        histogram.note(seconds)
        bucket = histogram.counts.index(1)
        assert bucket == len(BOUNDS) or seconds <= BOUNDS[bucket]
        assert bucket == 0 or seconds >= BOUNDS[bucket - 1] / 1.001
