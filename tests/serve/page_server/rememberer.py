"""A program to be dumped and restored: it knows what its memory holds, and says whether it does.

Run with a folder: a tree of two processes, which wait for the file `go` in it.  Each then writes
`said-PID`: whether every byte is what it was.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import time
from pathlib import Path

_WAIT_S = 60.0
BYTES = 4 << 20


def main() -> None:
    folder = Path(sys.argv[1])
    noise = os.urandom(BYTES)
    words = bytearray(b"all of it is to come back ") * (BYTES // 26)
    digests = [hashlib.sha256(each).digest() for each in (noise, words)]
    os.fork()
    (folder / f"ready-{os.getpid()}").touch()
    while not (folder / "go").exists():
        time.sleep(0.02)
    right = digests == [hashlib.sha256(each).digest() for each in (noise, words)]
    (folder / f"part-{os.getpid()}").write_text(str(right))
    (folder / f"part-{os.getpid()}").rename(folder / f"said-{os.getpid()}")
    time.sleep(1000)


class Rememberer:
    """The tests' side: its first process, and what both have said."""

    def __init__(self, folder: Path, *inside: str) -> None:
        self.folder = folder
        folder.mkdir()
        self.process = subprocess.Popen(
            [*inside, "setsid", sys.executable, "-S", __file__, str(folder)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        _until(lambda: len(list(folder.glob("ready-*"))) == 2)
        self.pid = min(int(each.name[6:]) for each in folder.glob("ready-*"))

    def go(self) -> None:
        """Let them look at their memory."""
        (self.folder / "go").touch()

    def said(self) -> list[str]:
        """What both say, once they have."""
        _until(lambda: len(list(self.folder.glob("said-*"))) == 2)
        return [each.read_text() for each in self.folder.glob("said-*")]

    def end(self) -> None:
        """Whatever of it is left here."""
        self.process.kill()
        self.process.wait()


def _until(done: object) -> None:
    deadline = time.monotonic() + _WAIT_S
    assert callable(done)
    while not done():
        assert time.monotonic() < deadline, "it does not come to that"
        time.sleep(0.02)


if __name__ == "__main__":
    main()
