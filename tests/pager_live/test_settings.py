"""What a program sets for itself does not reach the pager, and what we do does not change it."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path

from helpers import child
from helpers.folders import in_memory
from helpers.skips import absent

MIB = 1 << 20
SCENES = "pager_live.setting_scenes:"


def test_a_client_in_real_time_runs_while_its_pager_fills_in_the_background(
    image: Path,
) -> None:
    """On the same CPU, with the same policy and priority, which the pager has inherited."""
    with in_memory() as folder:
        large = folder / "large"
        large.write_bytes(image.read_bytes() + os.urandom(MIB) * 256)  # holes cost no time
        found = child.finish(child.start(SCENES + "real_time", str(large)), 120)
    if lacking := found.get("lacking"):
        absent(lacking)
    assert found == {"some left": True, "inherited": True, "page": [2]}


def test_a_default_timeout_of_sockets_is_not_ours(image: Path) -> None:
    found = child.finish(child.start(SCENES + "default_timeout", str(image), 0.05), 60)
    assert found == {"waited": True, "page": [2]}


def test_a_program_that_ignores_sigchld_is_served(image: Path) -> None:
    found = child.run(SCENES + "children_are_not_waited_for", str(image))
    assert found == {"pages": [2, 10], "children": []}


def test_a_program_that_reaps_every_child_is_served(image: Path) -> None:
    found = child.run(SCENES + "somebody_reaps_every_child", str(image))
    assert found == {"pages": [2], "children": []}


def test_a_cpu_for_the_pager_leaves_the_program_on_its_own() -> None:
    assert child.run(SCENES + "cpu_of_the_program", 0)


def need_module(name: str) -> None:
    if importlib.util.find_spec(name) is None:
        absent(f"{name} is not installed: pip install {name}")


def test_a_program_that_gevent_patched_is_served(image: Path) -> None:
    need_module("gevent")
    found = child.finish(child.start(SCENES + "under_gevent", str(image)), 60)
    pages = [[2, 3], [2, 3], [10]]
    assert found == {"pages": pages, "same": True, "child": 0, "ticks": True, "children": []}


def test_a_program_in_a_loop_of_uvloop_is_served(image: Path) -> None:
    need_module("uvloop")
    found = child.finish(child.start(SCENES + "under_uvloop", str(image)), 60)
    assert found == {"pages": [2, 3], "children": []}
