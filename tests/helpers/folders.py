"""Folders that tests put stores into."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from helpers.waiting import wait_until

SHM = "/dev/shm"


@contextmanager
def in_memory() -> Iterator[Path]:
    """A folder in memory where there is such a file system: stores make many durable writes.

    A pager keeps a snapshot's working set beside it after its client has let go, so that files may
    come while the folder is taken away: it is taken away until nothing is left.
    """
    folder = Path(tempfile.mkdtemp(prefix="userfault-", dir=SHM if os.path.isdir(SHM) else None))
    try:
        yield folder
    finally:
        wait_until(lambda: gone(folder))


def gone(folder: Path) -> bool:
    """Take it away; whether nothing has come into it meanwhile."""
    try:
        shutil.rmtree(folder)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.ENOENT):
            raise
    return not folder.exists()
