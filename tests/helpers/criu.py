"""A CRIU that works here: unpacked from Debian's unstable into a folder of its own.

Debian 12's own (3.17) fails on newer kernels (vDSO), and newer ones need a newer C library.
"""

from __future__ import annotations

import contextlib
import functools
import os
import signal
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

from helpers.debian import unpacked
from helpers.skips import absent, need_root


def need_criu() -> list[str]:
    """The start of a command line that runs it."""
    need_root()
    problem, command = _criu()
    if problem:
        absent(f"CRIU: {problem}")
    return command


@functools.cache
def _criu() -> tuple[str, list[str]]:
    """What keeps us from having it, or how to start it."""
    problem, folder = unpacked("criu")
    if problem:
        return problem, []
    command = [*folder.started_by, str(folder.path / "usr/sbin/criu")]
    checked = subprocess.run([*command, "check"], capture_output=True, text=True, check=False)
    return ("", command) if checked.returncode == 0 else (checked.stderr.strip()[-300:], [])


@contextlib.contextmanager
def detached(command: Sequence[str | Path], **options: object) -> Iterator[int]:
    """A program as CRIU can dump it: without a terminal, in a session of its own."""
    process = subprocess.Popen(  # type: ignore[call-overload]
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        **options,
    )
    try:
        yield process.pid
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def dump(criu: list[str], pid: int, images: Path, *more: str) -> None:
    """Dump the process tree below `pid`, which ends with that."""
    _run([*criu, "dump", "-t", str(pid), "--images-dir", str(images), *more])


@contextlib.contextmanager
def restored(criu: list[str], images: Path, work: Path, *more: str) -> Iterator[None]:
    """Restore it lazily, by the daemon that listens in `work`; it runs until the end of the block.

    In a new pid namespace, where its process ids are free.
    """
    command = [*criu, "restore", "--lazy-pages", "--images-dir", str(images)]
    command += ["--work-dir", str(work), "-d", "-v4", "-o", "restore.log", *more]
    wait = 'trap "" HUP; "$@"; echo $?; read end'  # the first process of the namespace
    with subprocess.Popen(
        ["unshare", "-pf", "--mount-proc", "--kill-child", "sh", "-c", wait, "sh", *command],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            assert process.stdout is not None
            code = process.stdout.readline().strip()
            if code != "0":
                log = (work / "restore.log").read_text(errors="replace")
                raise AssertionError(f"criu restore: {code}: {log[-2000:]}")
            yield
        finally:
            process.kill()


def _run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, f"{command}: {done.stderr[-2000:]}"
