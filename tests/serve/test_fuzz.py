"""A daemon outlives whatever is sent to its sockets, and serves who speaks rightly.

USERFAULT_FUZZ_SEED plays another seed, USERFAULT_FUZZ_SESSIONS more of it.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from helpers import child
from helpers.waiting import wait_until
from serve.daemons import Running, serving, started
from serve.fuzzing.tongues import AT, ENDED, TASK, TONGUES
from serve.vmm_snapshots import snapshot
from snapshot.dumps import LAZY, PRESENT, Dump, area
from userfault.kernel.memtypes import MIB

SEED = int(os.environ.get("USERFAULT_FUZZ_SEED", "20"))
SESSIONS = int(os.environ.get("USERFAULT_FUZZ_SESSIONS", "500"))
# One session in so many is played: each is a whole restore; many wait for a handshake's time.
_SLOW = {"cloud-hypervisor": 5, "drafts": 2}
_WARM_UP = 50  # sessions after which the worker has loaded and made what it keeps
_GROWS = 24 * MIB  # at most, whatever is said


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory, image: Path) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("daemon")
    arguments = ["--firecracker", str(folder / "vm"), "--native", str(folder / "native")]
    arguments += ["--drafts", str(folder / "drafts")]
    arguments += ["--image", str(image), "--handshake-timeout", "1"]
    (folder / "criu").mkdir()
    images = tmp_path_factory.mktemp("images")
    arguments += ["--criu", f"{folder}/criu={images}"]
    made = Dump(images, [TASK, ENDED])
    made.memory(TASK, area(AT, AT + image.stat().st_size))
    made.pages(str(TASK), 1, (AT, image.read_bytes(), LAZY | PRESENT))
    for name in ("shared", "private"):
        snapshot(folder / name, image, shared=name == "shared")
    with serving(folder, *arguments) as running:
        yield running


def descriptors(pid: int) -> int:
    """How many it has open."""
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


def resident(pid: int) -> int:
    """Bytes of its own memory."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith("RssAnon:"))


def playing(
    daemon: Running, image: Path, tongue: str, first: int, sessions: int
) -> subprocess.Popen[str]:
    """These sessions, in a process that plays them."""
    arguments = (tongue, SEED, first, sessions, str(daemon.folder), str(image))
    return child.start("serve.fuzzing.player:play", *arguments)


def fairly(player: subprocess.Popen[str]) -> None:
    """Wait for its end: nothing happened that must not."""
    assert child.finish(player, timeout_s=200) == []


def test_what_is_not_changed_is_right(daemon: Running, image: Path) -> None:
    """Else the sessions would never come beyond the first check."""
    found = child.run("serve.fuzzing.tongues:unchanged", str(daemon.folder), str(image))
    pages = dict.fromkeys(("criu", "drafts", "firecracker", "cloud-hypervisor"), "page")
    assert found == {**pages, "control": "True", "native": "Done"}


@pytest.mark.parametrize("tongue", TONGUES)
def test_whatever_is_said_others_are_served(
    daemon: Running, vm: Path, image: Path, tongue: str
) -> None:
    worker = daemon.member("worker")
    fairly(playing(daemon, image, tongue, 0, _WARM_UP))
    wait_until(lambda: not daemon.ask("sessions")["sessions"])
    before = descriptors(worker), resident(worker)
    with started(vm, daemon.folder / "vm", image, stop="sent") as meanwhile:
        assert meanwhile.reads() == "sent"
        player = playing(daemon, image, tongue, _WARM_UP, SESSIONS // _SLOW.get(tongue, 1))
        with started(vm, daemon.folder / "vm", image, drop=20, write=20, threads=2) as beside:
            assert beside.reads() == "right 512", f"seed {SEED}"
        fairly(player)
        meanwhile.go_on()
        assert meanwhile.reads() == "right 512", f"seed {SEED}"
    with started(vm, daemon.folder / "vm", image) as after:
        assert after.reads() == "right 512", f"seed {SEED}"
    status = daemon.ask("status")
    assert (status["processes"]["worker"], status["takeovers"]) == (worker, 0), f"seed {SEED}"
    wait_until(lambda: not daemon.ask("sessions")["sessions"])
    wait_until(lambda: descriptors(worker) <= before[0])
    assert resident(worker) <= before[1] + _GROWS, f"seed {SEED}"


def test_the_log_of_all_that_is_bounded(daemon: Running) -> None:
    assert len(daemon.log) < 2 * MIB
