"""`userfault lab reproduce`: the list of them, and one on two kernels."""

from __future__ import annotations

from pathlib import Path

import pytest

from cli.commands import userfault
from helpers.programs import need_static_libc
from userfault.lab.reproduce import reproducers
from userfault.lab.store import Kernel

ALL = reproducers()


def test_the_command_lists_them() -> None:
    done = userfault("lab", "reproduce")

    assert done.returncode == 0
    assert len(done.stdout.splitlines()) == len(ALL)


@pytest.mark.xdist_group("lab")
@pytest.mark.timeout(300)
def test_two_kernels_side_by_side(kernel: Kernel, tmp_path: Path) -> None:
    need_static_libc(tmp_path)
    done = userfault(
        "lab", "reproduce", "register-again-without-wp", "here", kernel.suite, timeout_s=200
    )

    assert done.returncode == 0, done.stderr
    here, there = done.stdout.splitlines()[-2:]
    assert here.startswith("here: registering for MISSING")
    assert there.startswith(f"{kernel.suite}: ({kernel.version}) registering for MISSING")
    assert there.endswith("EBUSY")  # since 7.3
