"""Faults that wait for too long are told of, once each, and given up only where the policy says."""

from __future__ import annotations

import errno
import signal
import time
from pathlib import Path

import pytest

import userfault
from helpers import child
from helpers.pages import PAGE, numbers
from helpers.skips import need_features
from pager_live import functions
from pager_live.serving.scenes_watchdog import DEADLINE_S
from userfault import Policy, lazy
from userfault.kernel.modes import Feature

SCENES = "pager_live.serving.scenes_watchdog:"


def test_a_fault_that_waits_is_told_of_and_served_all_the_same(tmp_path: Path) -> None:
    found = child.run(SCENES + "waits_and_is_served", str(tmp_path / "gate"))
    assert found["waiting"] == [1, 0]
    assert found["read"] == [6]
    assert found["check"][1] == ""
    assert "offset 0x5000" in found["check"][0]
    waited = found["overdue"][0]
    assert waited["offset"] == 5 * PAGE
    assert waited["address"] == found["address"] + 5 * PAGE
    assert waited["state"] == "filling"
    assert waited["source"].endswith(":gated")
    assert "read 1 of the source (attempt 1 of 3" in waited["waits_for"]
    assert waited["answer"] == "report"
    assert waited["age_s"] >= DEADLINE_S
    assert len(found["overdue"]) == 1


def test_standard_error_has_it_once_with_address_mapping_source_state_and_cause(
    tmp_path: Path,
) -> None:
    client = child.start(SCENES + "waits_and_is_served", str(tmp_path / "gate"))
    _, err = client.communicate(timeout=60)
    lines = [line for line in err.splitlines() if "has waited for" in line]
    assert len(lines) == 1
    for part in ("a fault at 0x", "offset 0x5000", "mapping [0x", "gated", "filling", "read 1"):
        assert part in lines[0]


def test_many_faults_that_wait_are_counted_and_not_all_listed(tmp_path: Path) -> None:
    client = child.start(SCENES + "many_wait", str(tmp_path / "gate"), 40)
    out, err = client.communicate(timeout=60)
    assert '"counted": 40' in out
    assert '"listed": 16' in out
    assert err.count("has waited for") == 16
    assert err.count("counted, not listed") == 1


def test_by_policy_a_page_is_poisoned_whose_read_never_ends_and_others_are_served(
    tmp_path: Path,
) -> None:
    need_features(Feature.POISON)
    found = child.run(SCENES + "poisoned_by_policy", str(tmp_path / "gate"))
    assert found["errno"] == errno.EFAULT
    assert found["neighbours"] == [[5], [7]]
    assert found["states"]["poisoned"] == 1
    assert "waited for longer than" in found["check"]


def test_by_policy_the_client_is_ended(tmp_path: Path) -> None:
    client = child.start(SCENES + "ended_by_policy", str(tmp_path / "gate"))
    _, err = client.communicate(timeout=60)
    assert client.returncode == -signal.SIGKILL
    assert "read 1 of the source" in err


def test_without_a_deadline_nothing_is_told(capfd: pytest.CaptureFixture[str]) -> None:
    source = userfault.function(functions.slow_page, 64 * PAGE, slow=5, seconds=1.5)
    policy = Policy(background=False, fault_deadline_s=None)
    with lazy(source, policy=policy) as mapped:
        assert numbers(mapped[5 * PAGE : 6 * PAGE]) == [6]
        assert mapped.statistics().overdue == []
    assert "has waited" not in capfd.readouterr().err


def test_a_fault_that_is_served_in_time_is_not_told_of(image: Path) -> None:
    deadline = 2.0  # whatever else the machine does meanwhile
    with lazy(image, policy=Policy(background=False, fault_deadline_s=deadline)) as mapped:
        for page in range(0, 2000, 7):
            assert numbers(mapped[page * PAGE : (page + 1) * PAGE]) == [page + 1]
        time.sleep(1.2 * deadline)
        found = mapped.statistics()
        assert (found.counters.overdue, found.overdue, found.waiting) == (0, [], 0)
        mapped.check()
