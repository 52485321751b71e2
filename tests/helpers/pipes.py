"""Pipes as large as CRIU wants one when it gives pages of a frozen process (criu/page-pipe.c).

It asks for 3.2 MiB, passes over that it did not get them, and fails at the first page that lies
further back in its own pipe than the default.  Beyond fs.pipe-max-size they take
CAP_SYS_RESOURCE (pipe(7)).
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from helpers.skips import absent

_LIMIT = Path("/proc/sys/fs/pipe-max-size")
_WANTED = 4 << 20


@contextlib.contextmanager
def large_pipes() -> Iterator[None]:
    """One test at a time raises the limit, where that is needed, and puts it back."""
    lock = os.open(
        Path(tempfile.gettempdir(), f"userfault-pipes-{os.getuid()}"),
        os.O_RDWR | os.O_CREAT | os.O_CLOEXEC,
        0o600,
    )
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        before = _LIMIT.read_text()
        if not _had():
            try:
                _LIMIT.write_text(str(_WANTED))
            except OSError as error:
                absent(f"pipes of {_WANTED} bytes: {error}")
        try:
            yield
        finally:
            if _LIMIT.read_text() != before:
                _LIMIT.write_text(before)
    finally:
        os.close(lock)


def _had() -> bool:
    """Whether one of that size can be made."""
    ends = os.pipe()
    try:
        fcntl.fcntl(ends[0], fcntl.F_SETPIPE_SZ, _WANTED)
    except PermissionError:
        return False
    finally:
        for end in ends:
            os.close(end)
    return True
