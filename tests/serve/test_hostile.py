"""What no right client says is refused, with the reason in the log, and the others are served."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from helpers import child
from helpers.family import descriptors
from helpers.waiting import wait_until
from serve.daemons import Running, serving, started
from serve.hostile_scenes import MESSAGES, Memory

# What the log says of each, beside those of MESSAGES.
SAID = {
    "no descriptor": "no descriptor came with the message",
    "two descriptors": "too many descriptors",
    "many descriptors": "too many descriptors",
    "no userfaultfd": "whose descriptor is no userfaultfd",
    "bytes behind": "1 bytes follow the regions",
    "not JSON": "it begins with byte 0x47",
    "nested": "nested too deeply",
    "endless": "nested too deeply",
    "half, and gone": "its connection ended in the middle",
    "empty, and gone": "its connection ended",
    "silent": "it has sent nothing",
    "half, and silent": "it has sent half of a message",
    **{name: said for name, (_, said) in MESSAGES.items()},
}


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory, image: Path, vm: Path) -> Iterator[Running]:
    """With one client that is there before, and is served all the time."""
    folder = tmp_path_factory.mktemp("daemon")
    limits = ("--handshake-timeout", "3", "--max-waiting", "64")
    with (
        serving(
            folder, "--firecracker", str(folder / "vm"), "--image", str(image), *limits
        ) as running,
        started(vm, folder / "vm", image, stop="sent", drop=20) as other,
    ):
        assert other.reads() == "sent"
        yield running
        other.go_on()
        assert other.reads() == "right 512"


def ended(process: subprocess.Popen[str]) -> str:
    """What became of a client: what it returned, or that it was killed."""
    out, err = process.communicate(timeout=90)
    code = process.returncode
    if code == -9:
        return "killed"
    assert code == 0, err
    return str(out.splitlines()[-1]).strip('"')


@pytest.fixture(scope="module")
def became(daemon: Running) -> dict[str, str]:
    """What became of each of them."""
    found = child.run("serve.hostile_scenes:each", str(daemon.folder / "vm"))
    assert isinstance(found, dict)
    return found


@pytest.mark.parametrize("name", SAID)
def test_what_makes_no_sense_is_refused(daemon: Running, became: dict[str, str], name: str) -> None:
    assert became[name] in ("killed", "closed", "gone")
    daemon.logged(SAID[name])


def test_who_has_handed_over_its_memory_does_not_wait_for_ever(became: dict[str, str]) -> None:
    for name in (*MESSAGES, "two descriptors", "many descriptors", "bytes behind"):
        assert became[name] == "killed", name


def test_connections_without_end_are_cut_and_told_with_an_end(daemon: Running) -> None:
    one = child.start("serve.hostile_scenes:many", str(daemon.folder / "vm"))
    assert ended(one) == "closed"
    daemon.logged("have not said what they want")
    daemon.logged("more were refused")
    assert daemon.log.count("have not said what they want") < 300


def test_someone_elses_memory_is_not_filled(daemon: Running) -> None:
    theirs = Memory()
    fd = theirs.uffd.fileno()
    arguments = str(daemon.folder / "vm"), theirs.address, fd
    one = child.start("serve.hostile_scenes:someone_elses", *arguments, pass_fds=[fd])
    assert ended(one) in ("killed", "closed")
    daemon.logged("the process that connects must be the one whose memory it is")
    theirs.uffd.close()


def test_what_a_client_says_later_is_not_listened_to(daemon: Running) -> None:
    one = child.start("serve.hostile_scenes:chatters", str(daemon.folder / "vm"))
    assert ended(one) == "5"


def test_nothing_of_a_refused_client_is_left(daemon: Running) -> None:
    """As many descriptors after five as after one."""

    def refused() -> None:
        ended(child.start("serve.hostile_scenes:two_descriptors", str(daemon.folder / "vm")))

    refused()
    worker = daemon.member("worker")
    before = descriptors(worker)
    for _ in range(4):
        refused()
    # The daemon lets go after the client has seen its end.
    wait_until(lambda: descriptors(worker) <= before)
