"""`rememberer.py`, as the tests see it."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path

from helpers.waiting import wait_until

_PROGRAM = Path(__file__).with_name("rememberer.py")
_WAIT_S = 60.0


class Rememberer:
    """The tests' side: its processes, the first one first, and what both have said."""

    def __init__(self, folder: Path, *inside: str) -> None:
        self.folder = folder
        folder.mkdir()
        self.process = subprocess.Popen(
            [*inside, "setsid", sys.executable, "-S", str(_PROGRAM), str(folder)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        wait_until(lambda: len(list(folder.glob("ready-*"))) == 2, _WAIT_S)
        self.pids = sorted(int(each.name[6:]) for each in folder.glob("ready-*"))
        self.pid = self.pids[0]

    def go(self) -> None:
        """Let them look at their memory."""
        (self.folder / "go").touch()

    def said(self) -> list[str]:
        """What both say, once they have."""
        wait_until(lambda: len(list(self.folder.glob("said-*"))) == 2, _WAIT_S)
        return [each.read_text() for each in self.folder.glob("said-*")]

    def end(self) -> None:
        """Whatever of it is left here."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
