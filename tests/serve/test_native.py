"""Programs with memory of their own use a daemon as they use a pager."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

import userfault
from cli.children import run
from helpers import child
from helpers.skips import need_root
from serve.daemons import Running, serving


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory, image: Path) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("daemon")
    run("pack", str(image), f"{folder}/store/one")
    run("pack", str(image), f"{folder}/other/one")
    arguments = ("--native", str(folder / "door"), "--allow-store", str(folder / "store"))
    with serving(folder, *arguments) as running:
        yield running


def test_a_file_is_shown(daemon: Running, image: Path) -> None:
    with (
        userfault.connect(daemon.folder / "door") as pager,
        userfault.lazy(image, pager=pager) as memory,
    ):
        assert memory[:] == image.read_bytes()


def test_a_store_that_is_listed_is_shown(daemon: Running, image: Path) -> None:
    with (
        userfault.connect(daemon.folder / "door") as pager,
        userfault.lazy(daemon.folder / "store" / "one", pager=pager) as memory,
    ):
        assert memory[:] == image.read_bytes()


def test_any_other_store_is_not(daemon: Running) -> None:
    with (
        userfault.connect(daemon.folder / "door") as pager,
        pytest.raises(userfault.PagerError, match="--allow-store"),
    ):
        userfault.lazy(daemon.folder / "other" / "one", pager=pager)


def test_functions_are_not_called(daemon: Running) -> None:
    with (
        userfault.connect(daemon.folder / "door") as pager,
        pytest.raises(userfault.PagerError, match="calls no functions"),
    ):
        userfault.lazy("os:urandom", length=4096, pager=pager)


def test_nobody_at_the_door_replaces_the_daemon(daemon: Running) -> None:
    with (
        userfault.connect(daemon.folder / "door") as pager,
        pytest.raises(userfault.PagerError, match="control socket"),
    ):
        pager.replace()


def test_workers_that_are_killed_are_not_noticed(daemon: Running, image: Path) -> None:
    policy = userfault.Policy(background=False)
    with (
        userfault.connect(daemon.folder / "door") as pager,
        userfault.lazy(image, pager=pager, policy=policy) as memory,
    ):
        assert memory[4096] == 1
        daemon.kill("worker")
        assert memory[8192] == 2
        daemon.kill("worker")
        assert memory.statistics().pages == 512
        assert memory[:] == image.read_bytes()


def test_others_are_not_let_in(daemon: Running) -> None:
    need_root()
    said = child.run("serve.native_scenes:connect_as_nobody", str(daemon.folder / "door"))
    assert "Permission denied" in said


def test_where_nobody_listens_that_is_said(tmp_path: Path) -> None:
    with pytest.raises(userfault.PagerError, match="no daemon can be used"):
        userfault.connect(tmp_path / "nothing")
