"""The benchmarks run through, and both sides read the same bytes.  No timing is looked at."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import userfault
from helpers.skips import absent, need_features
from userfault.kernel.modes import Feature

pytestmark = pytest.mark.timeout(300)

ROOT = Path(__file__).parents[2]
AGAINST_C = {"latency", "bulk", "patterns", "cold", "start", "model", "store", "restore", "vm"}
CHECKED_BY_CLIENTS = {"serve"}  # its clients compare every byte themselves
OURS_ALONE = {
    "fairness",
    "windows",
    "opening",
    "budget",
    "clones",
    "dirty",
}  # compared with itself; with UMap where somebody has built it
BENCHMARKS = AGAINST_C | OURS_ALONE | CHECKED_BY_CLIENTS
WITHOUT_BYTES = CHECKED_BY_CLIENTS | {"model"}  # nobody else reads what it reads

WITHOUT_KVM: set[str] = set() if os.access("/dev/kvm", os.R_OK | os.W_OK) else {"vm"}


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What a run of all benchmarks at small size wrote."""
    if not any(shutil.which(name) for name in ("cc", "gcc", "clang")):
        absent("needs a C compiler")
    if shutil.which("zstd") is None:
        absent("needs zstd")
    need_features(Feature.MINOR_SHMEM)
    written = tmp_path_factory.mktemp("bench") / "report.json"
    source = Path(userfault.__file__).parents[1]
    done = subprocess.run(
        [sys.executable, "-m", "bench", "--tiny", "all", "--json", str(written)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(source)},
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(written.read_bytes())
    return found


def test_every_benchmark_has_rows(report: dict[str, Any]) -> None:
    left_out = {line.partition(":")[0] for line in report["left_out"]}
    assert left_out <= WITHOUT_KVM
    assert {row["benchmark"] for row in report["rows"]} == BENCHMARKS - left_out
    assert all(row["ours"] > 0 for row in report["rows"])


def test_both_sides_read_the_same_bytes(report: dict[str, Any]) -> None:
    checks = report["checks"]

    named = {check["case"].split()[0] for check in checks}
    assert named | WITHOUT_KVM == (BENCHMARKS - WITHOUT_BYTES) | WITHOUT_KVM
    for check in checks:
        if check["case"].split()[0] not in OURS_ALONE:
            assert {"ours", "default"} & check["hashes"].keys()
            assert any(side.startswith(("C", "plain")) for side in check["hashes"])
        assert len(set(check["hashes"].values())) == 1, check


def test_a_report_names_its_machine(report: dict[str, Any]) -> None:
    assert report["tiny"] is True
    assert report["machine"].keys() == {"kernel", "cpu", "memory", "python", "load"}
