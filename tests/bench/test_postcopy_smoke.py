"""The benchmark of post-copy runs through, and the guest arrives.  No timing is looked at."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import userfault
from helpers.hosts import two_hosts
from helpers.skips import need_kvm
from serve.page_server.authority import Authority

pytestmark = pytest.mark.timeout(150)

ROOT = Path(__file__).parents[2]


def test_a_guest_arrives_with_its_sums_stopped_and_cut_off(tmp_path: Path) -> None:
    need_kvm()
    Authority(tmp_path / "authority")  # openssl(1)
    with two_hosts():  # root, network namespaces
        pass
    written = tmp_path / "report.json"
    done = subprocess.run(
        [
            *(sys.executable, "-m", "bench", "--tiny", "--rounds", "1", "postcopy"),
            *("--json", str(written)),
        ],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(Path(userfault.__file__).parents[1])},
        capture_output=True,
        text=True,
        timeout=140,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    report = json.loads(written.read_bytes())
    assert [row["unit"] for row in report["rows"]] == ["ms", "ms"]
    assert all(row["ours"] > 0 for row in report["rows"])
    (check,) = report["checks"]
    assert len(check["hashes"]) == 3  # moved, cut off, and as it was stored
