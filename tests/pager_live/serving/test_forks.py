"""A child of fork(2) lets go of what is its parent's without harm to either."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from helpers import child
from helpers.skips import need_root
from helpers.world import PoolLock

SCENES = "pager_live.serving.fork_scenes:"


@pytest.mark.parametrize("fork", [False, True], ids=["not-inherited", "inherited"])
@pytest.mark.parametrize("how", ["with", "close", "del"])
def test_a_child_that_lets_go_harms_neither_itself_nor_its_parent(
    image: Path, how: str, fork: bool
) -> None:
    if fork:
        need_root()
    found = child.run(SCENES + "child_lets_go", str(image), how, fork)
    assert found == {"status": 0, "armed": True, "page": [1], "all": True}


def test_a_child_that_ends_as_programs_do_harms_nobody(image: Path, tmp_path: Path) -> None:
    report = tmp_path / "status"
    process = child.start(SCENES + "child_that_ends", str(image), str(report))
    assert child.finish(process) == {"armed": True, "alive": True, "page": 4}
    assert report.read_text() == "7"


def test_descriptors_that_a_child_opened_since_stay_open(image: Path) -> None:
    found = child.run(SCENES + "descriptors_of_the_child", str(image))
    assert found == {"kept": 100, "page": [1, 2]}


@pytest.mark.parametrize("fork", [False, True], ids=["not-inherited", "inherited"])
def test_a_child_is_told_whose_the_memory_is(image: Path, fork: bool) -> None:
    if fork:
        need_root()
    found = child.run(SCENES + "what_a_child_is_told", str(image), fork)
    touch = 6 if fork else -signal.SIGSEGV
    assert found == {"told": True, "alive": False, "touch": touch}


@pytest.mark.parametrize("taken", [False, True])
def test_a_child_of_a_fork_that_python_does_not_know_of_keeps_its_memory(
    image: Path, taken: bool
) -> None:
    found = child.run(SCENES + "child_without_hooks", str(image), taken)
    assert found == {"status": 0, "armed": True, "page": 1}


@pytest.mark.parametrize("fork", [False, True], ids=["not-inherited", "inherited"])
def test_huge_pages_stay_the_parents(image: Path, fork: bool) -> None:
    need_root()
    with PoolLock():
        found = child.run(SCENES + "huge_pages_of_a_child", str(image), fork)
    expected = {"status": 0, "kept": True, "page": 1, "mapped": False, "given back": True}
    assert found == expected


def test_a_child_that_left_does_not_take_the_life_line_off(image: Path) -> None:
    scene = SCENES + "parent_ends_when_the_family_dies_after_a_child_left"
    client = child.start(scene, str(image))
    client.communicate(timeout=30)
    assert client.returncode == -signal.SIGBUS


def test_a_child_that_ends_while_its_page_pauses_costs_its_parent_nothing(tmp_path: Path) -> None:
    need_root()
    gate = str(tmp_path / "gate")
    found = child.run(SCENES + "child_that_ends_while_a_page_pauses", gate)
    assert found == {"page": 4}


def test_a_child_forked_in_the_middle_keeps_no_lock_and_no_life_line() -> None:
    with PoolLock():
        found = child.run(SCENES + "child_forked_in_the_middle")
    assert found == {"heard": True, "free": True}
