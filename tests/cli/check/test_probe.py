"""`userfault probe`: every cell is what a registration of our own says."""

from __future__ import annotations

import json
from typing import Any

import pytest

from cli.commands import userfault
from helpers.skips import need_root
from helpers.world import REGISTRABLE, PoolLock, World
from userfault.kernel.errors import RegistrationRefused
from userfault.kernel.memtypes import GIB, MIB, memory
from userfault.kernel.modes import Feature, Ioctls, Mode, names
from userfault.linux.probe import memories

MODES = (Mode.MISSING, Mode.MINOR, Mode.WP)


def probed(*arguments: str) -> dict[str, Any]:
    done = userfault("probe", "--json", *arguments)
    assert done.returncode == 0, done.stderr
    report: dict[str, Any] = json.loads(done.stdout)
    return report


@pytest.fixture(scope="module")
def report() -> dict[str, Any]:
    need_root()
    with PoolLock():
        return probed("--grow-pool")


def cell(report: dict[str, Any], name: str, page_size: int, mode: Mode) -> dict[str, Any]:
    (found,) = [
        cell
        for cell in report["cells"]
        if (cell["memory"], cell["page_size"], cell["mode"]) == (name, page_size, mode.name)
    ]
    return dict(found)


def test_the_json_has_the_documented_keys(report: dict[str, Any]) -> None:
    assert report["schema"] == "userfault.probe/1"
    assert set(report) == {
        "schema",
        "kernel",
        "opened_by",
        "user_mode_only",
        "features",
        "missing_features",
        "general_ioctls",
        "cells",
    }
    for found in report["cells"]:
        assert set(found) == {"memory", "page_size", "mode", "ioctls", "reason"}
        assert bool(found["ioctls"]) != bool(found["reason"]), "either ioctls or a reason"


def test_there_is_a_cell_for_each_memory_in_each_mode(report: dict[str, Any]) -> None:
    cells = [(cell["memory"], cell["page_size"], cell["mode"]) for cell in report["cells"]]
    expected = {
        (made.name, made.page_size, mode.name) for made in memories() for mode in (*MODES, Mode.RWP)
    }
    assert set(cells) == expected
    assert len(cells) == len(expected)


@pytest.mark.parametrize("name", REGISTRABLE)
@pytest.mark.parametrize("mode", MODES, ids=lambda mode: mode.name)
def test_a_cell_is_what_a_registration_says(
    report: dict[str, Any], world: World, name: str, mode: Mode
) -> None:
    mapping, uffd = world.map(name), world.userfaultfd()
    found = cell(report, name, memory(name).page_size, mode)
    try:
        granted = uffd.register(mapping.address, mapping.length, mode)
    except RegistrationRefused:
        assert found["ioctls"] == []
        assert found["reason"]
    else:
        assert found["ioctls"] == names(granted, Ioctls).split("|")
        assert found["reason"] == ""


def test_features_are_offered_or_missing(report: dict[str, Any], world: World) -> None:
    offered = world.userfaultfd().offered
    assert report["features"] == [feature.name for feature in Feature if feature in offered]
    assert set(report["missing_features"]) == {
        feature.name for feature in Feature if feature not in offered
    }


def test_an_empty_pool_is_told_and_left_alone() -> None:
    with PoolLock() as lock:
        if any(lock.before.values()):
            pytest.skip("this machine's pools are not empty")
        found = probed()
    for size in (2 * MIB, GIB):
        answer = cell(found, "hugetlb", size, Mode.MISSING)
        assert answer["ioctls"] == []
        assert "hugetlb page" in answer["reason"]


@pytest.mark.parametrize("columns", [80, 140])
def test_the_table_fits_the_terminal(columns: int) -> None:
    done = userfault("probe", columns=columns)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert max(map(len, lines)) <= columns
    assert "…" not in done.stdout, "nothing is cut"
    rows = [line.split() for line in lines]
    assert ["anon", "4", "KiB", "MISSING", "WAKE", "COPY"] in [row[:6] for row in rows]
    assert any(row[:2] == ["MINOR", "WAKE"] and "CONTINUE" in row for row in rows)
