"""Programs that are dumped by CRIU, and restored lazily from what a daemon serves."""

from __future__ import annotations

from pathlib import Path

from helpers.criu import detached, dump
from helpers.waiting import wait_until
from serve.daemons import Running
from userfault.api.daemon import replace as replace_daemon
from userfault.serve.talking import Line

PROCESSES = 3  # of tree.c


def replace(daemon: Running) -> None:
    """Have it hand over to another family."""
    line = Line.to(str(daemon.folder / "control"))
    try:
        replace_daemon(line)
    finally:
        line.close()


class Tree:
    """`tree.c`, dumped: its images, and the folder where it tells how it stands."""

    def __init__(self, criu: list[str], program: Path, folder: Path) -> None:
        self.folder, self.images = folder / "told", folder / "images"
        self.work = folder / "work"
        for each in (self.folder, self.images, self.work):
            each.mkdir(parents=True)
        with detached([program, self.folder]) as pid:
            self.wait("ready")
            dump(criu, pid, self.images)

    def wait(self, what: str) -> None:
        """Until every process has told that."""
        files = [self.folder / f"{what}.{number}" for number in range(PROCESSES)]
        wait_until(lambda: all(file.exists() for file in files), 60)

    def tell(self, what: str) -> None:
        """Let all of them go on."""
        (self.folder / what).touch()

    def results(self) -> list[str]:
        """What each of them has found, once all have."""
        self.wait("result")
        return [(self.folder / f"result.{number}").read_text() for number in range(PROCESSES)]
