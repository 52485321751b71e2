"""Processes in a memory cgroup, for test_accounts.py."""

from __future__ import annotations

import os
from pathlib import Path

from userfault import Policy, lazy
from userfault.pager.drivers.shared import asking


def restored_inside(snapshot: str, procs: str) -> dict[str, int]:
    """Fills the copy, whose keeper is outside: pages put there, bytes of shmem charged here."""
    Path(procs).write_text(str(os.getpid()))
    with lazy(snapshot, policy=Policy(share="on", record="never")) as mapped:
        mapped.complete()
        lines = Path(procs).with_name("memory.stat").read_text().splitlines()
        told = dict(line.split() for line in lines)
        published = mapped.statistics().counters.published
        return {"published": published, "shmem": int(told["shmem"])}


def keeper_inside(procs: str) -> None:
    """Has a keeper started, which stays."""
    Path(procs).write_text(str(os.getpid()))
    grant = asking.ask(bytes(32), 1)
    assert grant is not None
    grant.close()
