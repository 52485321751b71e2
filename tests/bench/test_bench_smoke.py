"""The benchmarks run through, and both sides read the same bytes.  No timing is looked at."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from bench.__main__ import BENCHMARKS as ALL
from bench.__main__ import BY_NAME

from helpers.benches import refusal_of, report_of
from helpers.criu import need_criu
from helpers.lab import newest_kernel
from helpers.skips import absent, need_features
from userfault.kernel.modes import Feature

pytestmark = pytest.mark.timeout(300)

AGAINST_C = {"latency", "bulk", "patterns", "cold", "start", "model", "store", "restore", "vm"}
CRIU = "criu lazy-pages"
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


def run_of(name: str, folder: Path) -> dict[str, Any]:
    """What a run of one benchmark at small size wrote."""
    if not any(shutil.which(each) for each in ("cc", "gcc", "clang")):
        absent("needs a C compiler")
    if shutil.which("zstd") is None:
        absent("needs zstd")
    need_features(Feature.MINOR_SHMEM)
    return report_of(name, folder, timeout_s=280)


def test_all_stands_for_each_benchmark_that_needs_nothing_fetched() -> None:
    assert set(ALL) - BY_NAME == BENCHMARKS


@pytest.mark.parametrize("name", sorted(BENCHMARKS))
def test_a_benchmark_has_rows_and_both_sides_read_the_same_bytes(name: str, tmp_path: Path) -> None:
    report = run_of(name, tmp_path)
    assert report["tiny"] is True
    named = {"kernel", "cpu", "memory", "python", "load", "bytecode"}
    assert report["machine"].keys() == named
    if name in WITHOUT_KVM:
        assert [line.partition(":")[0] for line in report["left_out"]] == [name]
        absent("needs /dev/kvm")
    assert report["left_out"] == []
    assert {row["benchmark"] for row in report["rows"]} == {name}
    assert [row for row in report["rows"] if not row["ours"] > 0] == []
    checked = {check["case"].split()[0] for check in report["checks"]}
    assert checked == {name} - WITHOUT_BYTES
    for check in report["checks"]:
        if name not in OURS_ALONE:
            assert {"ours", "default"} & check["hashes"].keys()
            assert any(side.startswith(("C", "plain")) for side in check["hashes"])
        assert len(set(check["hashes"].values())) == 1, check


def test_restore_has_a_guest_and_the_daemon_of_criu_where_they_are_asked_for(
    tmp_path: Path,
) -> None:
    need_criu()
    newest_kernel()
    report = report_of("restore", tmp_path, "--guest", "--criu", timeout_s=280)
    assert report["left_out"] == []
    against = {row["case"].split(",")[0] for row in report["rows"] if row["rival_name"] == CRIU}
    assert against == {"a CPython process with a database", "fragmented", "a QEMU guest"}
    checks = [check["hashes"] for check in report["checks"] if "CRIU" in check["hashes"]]
    assert [len(set(hashes.values())) for hashes in checks] == [1, 1, 1]


def test_a_wrong_folder_of_umap_is_told_at_once(tmp_path: Path) -> None:
    (tmp_path / "lib").mkdir()
    assert "UMap is not built there" in refusal_of("windows", "--umap", str(tmp_path))
    (tmp_path / "lib" / "libumap.so").write_bytes(b"no library")
    told = refusal_of("windows", "--umap", str(tmp_path))
    assert "UMap has failed" in told
    assert "libumap.so" in told
