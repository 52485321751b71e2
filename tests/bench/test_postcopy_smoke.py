"""The benchmark of post-copy runs through, and the guest arrives.  No timing is looked at."""

from __future__ import annotations

from pathlib import Path

import pytest

from helpers.benches import report_of
from helpers.hosts import two_hosts
from helpers.skips import need_kvm
from serve.page_server.authority import Authority

pytestmark = pytest.mark.timeout(150)


def test_a_guest_arrives_with_its_sums_stopped_and_cut_off(tmp_path: Path) -> None:
    need_kvm()
    Authority(tmp_path / "authority")  # openssl(1)
    with two_hosts():  # root, network namespaces
        pass
    report = report_of("postcopy", tmp_path, "--rounds", "1", timeout_s=140)
    assert [row["unit"] for row in report["rows"]] == ["ms", "ms"]
    assert all(row["ours"] > 0 for row in report["rows"])
    (check,) = report["checks"]
    assert len(check["hashes"]) == 3  # moved, cut off, and as it was stored
