"""`userfault lab run KERNEL... -- CMD`: a command inside other kernels."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from userfault.cli.lab.jobs import Setup
from userfault.cli.shared import errors, terminal
from userfault.lab.command import MEMORY_MIB, run_command

_STREAMS = {1: sys.stdout, 2: sys.stderr}


def run_everywhere(
    setups: list[Setup],
    words: list[str],
    files: tuple[Path, ...],
    memory_mib: int | None,
    cpus: int,
    within_s: float | None,
) -> int:
    """Run it on each kernel; its own exit code of one kernel, 1 where any of several failed."""
    width = str(shutil.get_terminal_size().columns)
    codes = []
    for setup in setups:
        if len(setups) > 1:
            terminal.say(f"--- {setup.kernel.name} ({setup.kernel.release})", err=True)
        code = run_command(
            setup.kernel,
            words,
            _write,
            environment={"HOME": "/tmp", "TERM": "dumb", "COLUMNS": width},
            files=files,
            memory_mib=memory_mib or MEMORY_MIB,
            cpus=cpus,
            extra=setup.extra,
            within_s=within_s,
            outside=setup.module,
        )
        codes.append(code)
    if len(codes) == 1:
        return codes[0]
    return errors.FAILED if any(codes) else 0


def _write(stream: int, data: bytes) -> None:
    buffer = _STREAMS[stream].buffer
    buffer.write(data)
    buffer.flush()
