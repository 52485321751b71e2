"""Whom nobody needs any more ends: no process of a pager outlives its clients."""

from __future__ import annotations

import contextlib
import os
import signal
from pathlib import Path

from helpers import child
from helpers.skips import need_root
from helpers.waiting import wait_until
from userfault.linux import pidfd

SCENE = "pager_live.scenes:forked_before_it_was_killed"


def served_by(pid: int) -> int:
    """How many address spaces a process serves."""
    found = 0
    for name in os.listdir(f"/proc/{pid}/fd"):
        with contextlib.suppress(OSError):
            found += "userfaultfd" in os.readlink(f"/proc/{pid}/fd/{name}")
    return found


def test_a_family_ends_whose_last_child_died_while_a_page_was_read_for_it(tmp_path: Path) -> None:
    """The worker learns of that death by the fill (ESRCH), before it looks after its children."""
    need_root()  # fork events
    report, gate = tmp_path / "report", tmp_path / "gate"
    client = child.start(SCENE, str(report), str(gate))
    watched: list[int] = []
    try:
        wait_until(report.exists)
        forked, *family = map(int, report.read_text().split())
        watched += [os.pidfd_open(pid) for pid in [forked, *family]]
        worker = family[0]
        wait_until(lambda: served_by(worker) == 2 and (tmp_path / "gate.asked").exists())
        client.kill()
        client.wait()
        wait_until(lambda: served_by(worker) == 1)
        os.kill(forked, signal.SIGKILL)
        assert pidfd.wait(watched[0], 30)
        gate.touch()
        assert all(pidfd.wait(each, 30) for each in watched)
    finally:
        client.kill()
        client.communicate()
        for each in watched:
            pidfd.kill(each)
            os.close(each)


def test_a_fork_beside_the_end_of_the_memory_does_not_sleep(image: Path) -> None:
    """Nobody reads its event any more: it has to be called off."""
    need_root()  # fork events
    scene = "pager_live.clients.scenes_close:fork_after_the_pager_has_let_go"
    assert child.run(scene, str(image)) == {"forked": True}


def test_a_fork_beside_the_making_of_the_memory_does_not_sleep(image: Path) -> None:
    """Nobody reads its event yet: there must be none."""
    need_root()  # fork events
    scene = "pager_live.clients.scenes_close:fork_before_the_pager_has_the_memory"
    assert child.run(scene, str(image)) == {"forked": True, "inherited": True}
