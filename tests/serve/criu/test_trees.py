"""A tree of processes, restored by CRIU from what a daemon serves, has every byte that it had."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from cli.children import run
from helpers.criu import need_criu, restored
from helpers.waiting import wait_until
from serve.criu.restores import PROCESSES, Tree, replace
from serve.daemons import Running, build, serving
from userfault.snapshot.inputs.criu_images import tasks
from userfault.snapshot.inputs.criu_lazy import LazyTask
from userfault.snapshot.inputs.protocol import PAGE

RIGHT = ["right"] * PROCESSES

pytestmark = pytest.mark.timeout(600)  # the first of its tests loads packages


@pytest.fixture(scope="module")
def criu() -> list[str]:
    return need_criu()


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build("criu/tree.c", tmp_path_factory.mktemp("built"))


@pytest.fixture
def tree(criu: list[str], program: Path, tmp_path: Path) -> Tree:
    return Tree(criu, program, tmp_path)


@pytest.mark.parametrize("when", ["--background", "--no-background"])
def test_from_its_images(criu: list[str], tree: Tree, tmp_path: Path, when: str) -> None:
    with (
        serving(tmp_path / "daemon", "--criu", f"{tree.work}={tree.images}", when) as daemon,
        restored(criu, tree.images, tree.work),
    ):
        tree.tell("go")
        tree.tell("on")
        assert tree.results() == RIGHT
        if when == "--background":
            nobody(daemon)  # every page is in, and nobody needs the daemon


def nobody(daemon: Running) -> None:
    wait_until(lambda: not daemon.ask("sessions")["sessions"])


def test_from_a_store(criu: list[str], tree: Tree, tmp_path: Path) -> None:
    run("pack", "--criu", str(tree.images), f"{tmp_path}/store/tree")
    for pid in tasks(str(tree.images)):
        with LazyTask(str(tree.images), pid) as task:
            (held,) = {os.readlink(f"/proc/self/fd/{run.fd}") for run in task.runs}
            with open(held, "r+b") as file:  # CRIU steps over what is to come from us
                for each in task.runs:
                    file.seek(each.position * PAGE)
                    file.write(bytes(each.pages * PAGE))
    with (
        serving(tmp_path / "daemon", "--criu", f"{tree.work}={tmp_path}/store/tree") as daemon,
        restored(criu, tree.images, tree.work),
    ):
        tree.tell("go")
        tree.tell("on")
        assert tree.results() == RIGHT
        nobody(daemon)


def test_though_workers_are_killed(criu: list[str], tree: Tree, tmp_path: Path) -> None:
    arguments = ("--criu", f"{tree.work}={tree.images}", "--no-background")
    with (
        serving(tmp_path / "daemon", *arguments) as daemon,
        restored(criu, tree.images, tree.work),
    ):
        daemon.kill("worker")
        tree.tell("go")
        daemon.kill("worker")
        tree.wait("half")
        daemon.kill("supervisor")
        tree.tell("on")
        daemon.kill("worker")
        replace(daemon)
        assert tree.results() == RIGHT


def test_once_more_from_the_same_images(criu: list[str], tree: Tree, tmp_path: Path) -> None:
    with serving(tmp_path / "daemon", "--criu", f"{tree.work}={tree.images}"):
        for _ in range(2):
            with restored(criu, tree.images, tree.work):
                tree.tell("go")
                tree.tell("on")
                assert tree.results() == RIGHT
            shutil.rmtree(tree.folder)
            tree.folder.mkdir()
