"""A QEMU guest comes up again from a store: its memory is lazy, and it goes on where it was."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from bench.qemu import KVM, TCG, Machine, Saved, no_kvm

from cli.commands import command
from helpers.lab import newest_kernel
from helpers.skips import absent
from helpers.stores import store
from helpers.waiting import wait_until

pytestmark = [pytest.mark.timeout(300), pytest.mark.xdist_group("lab")]

BLOCKS = 4


@pytest.fixture(scope="module", params=[TCG, KVM])
def saved(
    possible: None, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Iterator[Saved]:
    """A guest that is saved, with its memory packed as `store/guest` beside it."""
    del possible
    if request.param == KVM and (reason := no_kvm()):
        absent(reason)
    folder = tmp_path_factory.mktemp("guest")
    guest = Saved(newest_kernel(), folder, blocks=BLOCKS, accelerator=request.param)
    store(folder / "store", "guest", guest.memory.read_bytes())
    yield guest
    guest.memory.unlink()


def lazily(saved: Saved, memory: Path, *more: str) -> list[str]:
    """The words before QEMU's command line."""
    return [*command("exec", "--map", f"{memory}={saved.memory.parent}/store/guest", *more), "--"]


def goes_on(saved: Saved, machine: Machine) -> None:
    """It counts on from where it was, and each block of its memory is what it was."""
    ticks = machine.ticks(BLOCKS + 2)
    first = saved.last + 1
    assert [tick.number for tick in ticks] == list(range(first, first + len(ticks)))
    for tick in ticks:
        assert tick.digest == saved.digests[(tick.number - 1) % BLOCKS]


def test_a_guest_goes_on_from_a_store(saved: Saved, tmp_path: Path) -> None:
    memory = tmp_path / "memory"
    with saved.restored(memory, before=lazily(saved, memory)) as machine:
        assert memory.stat().st_blocks == 0  # what QEMU has mapped is memory, not this file
        goes_on(saved, machine)
    assert machine.process.returncode == 0
    assert not memory.exists()


def test_a_guest_goes_on_in_little_memory_when_processes_of_its_pager_are_killed(
    saved: Saved, tmp_path: Path
) -> None:
    """256 MiB of it in 32."""
    memory = tmp_path / "memory"
    with saved.restored(memory, before=lazily(saved, memory, "--resident", "32M")) as machine:
        session = pager_of(machine.process.pid)
        for _ in range(2):
            wait_until(lambda: len(members(session)) == 3)
            os.kill(members(session)[-1], signal.SIGKILL)
            machine.ticks(len(machine.ticks(0)) + 2)
        goes_on(saved, machine)
    assert machine.process.returncode == 0


def pager_of(parent: int) -> int:
    """The session of the pager that a command has started: its child began it."""
    (found,) = {fields[3] for fields in _pagers().values() if fields[1] == parent}
    return found


def members(session: int) -> list[int]:
    """The processes of such a session, who has worked most at the end."""
    found = {pid: fields for pid, fields in _pagers().items() if fields[3] == session}
    return sorted(found, key=lambda pid: found[pid][11])


def _pagers() -> dict[int, list[int]]:
    """The numbers of /proc/PID/stat from the state on (proc_pid_stat(5)), of all that live."""
    found = {}
    for each in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError):
            words = Path(f"/proc/{each}/cmdline").read_bytes()
            state, *fields = Path(f"/proc/{each}/stat").read_text().rpartition(")")[2].split()
            if b"pager_main" in words and state != "Z":
                found[int(each)] = [0, *map(int, fields)]
    return found
