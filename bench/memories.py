"""Images of real memory: captured from processes that did some work, or files that you name."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from bench.images import Image
from bench.native import Native
from bench.programs import PROGRAMS
from userfault.cli.demo.capture import capture
from userfault.kernel.memtypes import BASE_PAGE

_PIECE = 4 << 20


def of_processes(directory: Path, native: Native, mib: int) -> Image:
    """The memory of four processes, one after the other; each was asked to use `mib` MiB."""
    fd, path = tempfile.mkstemp(dir=directory)
    os.unlink(path)
    end = 0
    for name in PROGRAMS:
        end = _append(fd, end, directory, name, mib)
    os.ftruncate(fd, end)
    return Image.of(fd, native)


def of_file(path: Path, native: Native) -> Image:
    """A file that there is: the memory file of a virtual machine, say.  Whole pages of it."""
    fd = os.open(path, os.O_RDONLY)
    return Image.of(fd, native)


def _append(fd: int, end: int, directory: Path, name: str, mib: int) -> int:
    """Capture a process to `fd` from `end` on; where it ends."""
    source = Path(__file__).parents[1]
    process = subprocess.Popen(
        [sys.executable, "-m", "bench.programs", name, str(mib)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=source,
    )
    try:
        assert process.stdout is not None
        if not process.stdout.readline():
            raise subprocess.SubprocessError(f"the program {name} has failed")
        with tempfile.TemporaryFile(dir=directory) as file:
            capture(process.pid, file)
            return _copy(file.fileno(), fd, end)
    finally:
        process.kill()
        process.communicate()


def _copy(source: int, target: int, at: int) -> int:
    """Copy what is not a hole."""
    length = os.fstat(source).st_size
    done = 0
    while done < length:
        data = os.pread(source, _PIECE, done)
        if data.count(0) < len(data):
            os.pwrite(target, data, at + done)
        done += len(data)
    return at + -(-length // BASE_PAGE) * BASE_PAGE
