"""A real browser that looks at a page: Chromium, from apt where there is none."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

from helpers.skips import absent

_NAMES = ("chromium", "chromium-browser", "google-chrome")
_INSTALL = ("apt-get", "install", "-y", "-qq", "--no-install-recommends", "chromium")
_INSTALL_S = 240
_LOOK_S = 120  # on a busy machine; it takes two seconds on an idle one


def browser() -> str:
    """Its program; the test is skipped where it cannot be had."""
    found = _found()
    if found is None and os.geteuid() == 0 and shutil.which("apt-get"):
        environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
        subprocess.run(
            _INSTALL, env=environment, capture_output=True, timeout=_INSTALL_S, check=False
        )
        found = _found()
    if found is None:
        absent("needs Chromium, and apt-get cannot install it here")
    return found


def _found() -> str | None:
    return next((path for name in _NAMES if (path := shutil.which(name))), None)


def document(page: Path, profile: Path) -> str:
    """The document of a page after its scripts have run, as the browser has it."""
    done = subprocess.run(
        [
            browser(),
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-dev-shm-usage",
            "--window-size=1400,900",
            f"--user-data-dir={profile}",
            "--virtual-time-budget=2000",
            "--dump-dom",
            page.as_uri(),
        ],
        capture_output=True,
        text=True,
        timeout=_LOOK_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout
