"""What docs/findings.md says of Linux is so: in the model, and on the running kernel."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from check.explore.findings import FINDINGS
from helpers.skips import absent, need_features, need_root
from helpers.world import PoolLock
from userfault.check.explore.runner import Runner
from userfault.check.explore.search import search
from userfault.check.explore.strategies.reduced import Reduced
from userfault.kernel.modes import Feature
from userfault.linux.hugepool import PoolShare
from userfault.model.profiles import profile_named

_PROGRAMS = Path(__file__).with_name("reproducers")
_HUGE = 2 << 20


@pytest.mark.parametrize(
    ("name", "kernel", "holds"),
    [
        ("scan-and-dontneed-of-huge-pages", "6.18", False),
        ("scan-and-dontneed-of-huge-pages", "7.2", False),
        ("scan-and-dontneed-of-huge-pages", "7.3", False),
        ("copy-and-what-took-its-place", "6.12", False),
        ("copy-and-what-took-its-place", "6.18", False),
        ("copy-and-what-took-its-place", "7.2", True),
        ("copy-and-what-took-its-place", "7.3", True),
        ("copy-and-another-page-of-the-file", "6.18", False),
        ("copy-and-another-page-of-the-file", "7.2", False),
        ("copy-and-another-page-of-the-file", "7.3", False),
        ("copy-and-another-huge-file", "6.18", False),
        ("copy-and-another-huge-file", "7.2", False),
        ("copy-and-another-huge-file", "7.3", False),
        ("copy-and-a-mapping-cut-below", "6.18", True),
        ("copy-and-a-mapping-cut-below", "7.2", False),
        ("copy-and-a-mapping-cut-below", "7.3", False),
    ],
)
def test_the_model_breaks_where_the_kernel_does(name: str, kernel: str, holds: bool) -> None:
    found = search(Runner(FINDINGS[name], profile_named(kernel)), Reduced())
    assert (found.violation is None) is holds
    assert found.violation is None or found.violation.kind == "check"


def _run(name: str, directory: Path, *arguments: str) -> tuple[int, str]:
    """Compile it and run it: the exit code and what it printed."""
    compiler = shutil.which("cc")
    if compiler is None:
        absent("needs a C compiler")
    program = directory / name
    subprocess.run(
        [compiler, "-O1", "-pthread", "-o", program, _PROGRAMS / f"{name}.c"], check=True
    )
    done = subprocess.run(
        [program, *arguments], capture_output=True, text=True, check=False, timeout=60
    )
    return done.returncode, done.stdout + done.stderr


def _release() -> tuple[int, ...]:
    return tuple(int(part) for part in os.uname().release.split(".")[:2])


def test_a_scan_forgets_a_huge_page_that_was_dropped(tmp_path: Path) -> None:
    need_root()
    need_features(Feature.WP_ASYNC)
    with PoolLock():
        share = PoolShare(_HUGE, 1, grow=True)
        try:
            code, told = _run("scan_forgets_a_dropped_huge_page", tmp_path)
        finally:
            share.close()
    assert code == 0, told


def test_a_copy_fills_what_took_its_place(tmp_path: Path) -> None:
    need_root()
    code, told = _run("copy_fills_what_took_its_place", tmp_path)
    assert code == (0 if _release() < (7, 1) else 1), told


def test_a_copy_fills_another_page_of_the_file(tmp_path: Path) -> None:
    need_root()
    code, told = _run("copy_fills_another_page", tmp_path)
    assert code == 0, told


def test_a_copy_whose_mapping_is_cut_below_it_is_to_be_tried_again(tmp_path: Path) -> None:
    need_root()
    code, told = _run("copy_fills_another_page", tmp_path, "cut")
    assert code == (0 if _release() < (7, 1) else 1), told


def test_a_copy_fills_another_huge_file(tmp_path: Path) -> None:
    need_root()
    with PoolLock():
        share = PoolShare(_HUGE, 3, grow=True)
        try:
            code, told = _run("copy_fills_another_huge_file", tmp_path)
        finally:
            share.close()
    assert code == 0, told
