"""The CRIU that the tests of this folder use is one that works here."""

from __future__ import annotations

import subprocess

import pytest

from helpers.criu import need_criu


@pytest.mark.timeout(600)  # the first of its tests loads packages
def test_it_is_a_release_that_works_on_this_kernel() -> None:
    criu = need_criu()
    told = subprocess.run([*criu, "--version"], capture_output=True, text=True, check=True).stdout
    version = told.split()[1].split(".")
    assert (int(version[0]), int(version[1])) >= (4, 2), told
    checked = subprocess.run([*criu, "check"], capture_output=True, text=True, check=False)
    assert "Looks good" in checked.stdout + checked.stderr
