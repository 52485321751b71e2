"""Programs that tests compare with, installed from Debian where they are absent."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

from helpers.skips import absent
from userfault.check.live.agent.build import NoAgent, compiler


def need_program(program: str, package: str) -> None:
    """Have `program` on the path; as root its package is installed."""
    if shutil.which(program):
        return
    if os.geteuid() != 0 or not shutil.which("apt-get"):
        absent(f"needs {program} (Debian's package {package})")
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    for command in (["update"], ["install", "-y", "-qq", package]):
        subprocess.run(
            ["apt-get", "-qq", *command],
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            check=False,
        )
    if not shutil.which(program):
        absent(f"{program} is not here, and Debian's package {package} could not be installed")


def need_static_libc(tmp_path: Path) -> None:
    """Have a compiler that links statically."""
    source = tmp_path / "empty.c"
    source.write_text("int main(void) { return 0; }\n")
    try:
        command = [*compiler(), "-static", "-o", str(tmp_path / "empty"), str(source)]
    except NoAgent as error:
        absent(str(error))
    if subprocess.run(command, capture_output=True, check=False).returncode:
        absent("no static C library: on Debian, libc6-dev")
