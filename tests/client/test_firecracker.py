"""`userfault client --firecracker` against our daemon: every byte is right, in every form."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from cli.commands import command, environment, userfault
from client.conftest import PAGES, handler, posed
from helpers.skips import absent
from helpers.waiting import wait_until
from helpers.world import PoolLock
from serve.daemons import Running, serving
from userfault.client.hostile import VARIANTS
from userfault.client.orders import PATTERNS, order
from userfault.kernel.errors import MemoryUnavailable
from userfault.kernel.memtypes import MIB
from userfault.linux.hugepool import PoolShare

FORMS: dict[str, list[str]] = {
    "as of 1.12": ["--regions=7"],
    "as of 1.7": ["--form=v1.7", "--pattern=sequential"],
    "as of 1.6": ["--form=oldest", "--pattern=reverse", "--balloon=10"],
    "a byte at a time": ["--split=1", "--regions=2"],
    "these regions": ["--regions=4k,1m,1048576"],
    "threads": ["--threads=4", "--pattern=sequential", "--rounds=2"],
    "balloon": ["--balloon=30", "--write=30", "--threads=3", "--regions=3", "--flood=20"],
    "system calls": ["--kernel=50", "--write=10", "--pattern=chunks"],
    "advised for huge pages": ["--transparent", "--pattern=ends"],
    "plugged in late": ["--hotplug=300k", "--pattern=stride", "--balloon=10"],
    "part of it": ["--pages=50"],
}


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory, image: Path) -> Iterator[Running]:
    """The image's last page is not whole: rounded up, as memory is."""
    folder = tmp_path_factory.mktemp("daemon")
    arguments = ("--firecracker", str(folder / "vm"), "--image", str(image))
    with serving(folder, *arguments, "--handshake-timeout", "1") as running:
        yield running


@pytest.mark.parametrize("form", FORMS)
def test_every_byte_is_the_images(daemon: Running, image: Path, form: str) -> None:
    arguments = f"--firecracker={daemon.folder}/vm", f"--image={image}"
    code, found = posed(*arguments, *FORMS[form])
    assert (code, found["verdict"]) == (0, "right"), found
    result = found["result"]
    assert result["pages"] == PAGES + 1
    seen = 50 if form == "part of it" else PAGES + 1
    assert result["checked"] >= 2 * seen - 75 * (form == "plugged in late")
    took = result["latency"]
    assert 0 < took["faults"] <= result["touches"]
    assert took["p50_us"] <= took["p99_us"] <= took["max_us"]
    for option, count in (("balloon", "removed"), ("write", "written"), ("kernel", "by_kernel")):
        assert bool(result[count]) == any(each.startswith(f"--{option}") for each in FORMS[form])


def test_huge_pages_of_an_image_that_ends_inside_one(daemon: Running, image: Path) -> None:
    with PoolLock():
        try:
            share = PoolShare(2 * MIB, 4, grow=True)
        except MemoryUnavailable as error:
            absent(str(error))
        try:
            arguments = ["--page-size=2m", "--balloon=50", "--write=50", "--flood=3"]
            where = f"--firecracker={daemon.folder}/vm", f"--image={image}"
            code, found = posed(*where, *arguments)
        finally:
            share.close()
    assert (code, found["verdict"]) == (0, "right"), found
    assert found["result"]["pages"] == 2


def test_hostile_clients_harm_no_honest_one(daemon: Running, image: Path) -> None:
    where = f"--firecracker={daemon.folder}/vm", f"--image={image}"
    code, found = posed(*where, "--hostile=all", "--wait=5")
    played = {each["variant"]: each for each in found["hostile"]}
    assert code == 0, [each for each in played.values() if each["after"]["verdict"] != "right"]
    assert set(played) == set(VARIANTS)
    for name, each in played.items():
        assert each["during"]["verdict"] == each["after"]["verdict"] == "right", each
        if name in ("maps-over", "events", "chatters"):
            assert "is waited for" not in each["did"], each
            assert "did not" not in each["did"], each
        elif not name.startswith(("dies", "connections")):
            assert "killed" in each["did"] or "closed" in each["did"], each


def test_an_interrupted_client_leaves_no_process(tmp_path: Path, image: Path) -> None:
    """While a thread of it sleeps in a fault that nobody answers."""
    with handler(tmp_path / "s", image, "hangs"):
        arguments = f"--firecracker={tmp_path}/s", f"--image={image}"
        process = subprocess.Popen(
            command("client", *arguments), env=environment(), stderr=subprocess.DEVNULL
        )
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
        wait_until(lambda: bool(children.read_text().split()))
        (child,) = map(int, children.read_text().split())
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=60) == 130
    with pytest.raises(ProcessLookupError):
        os.kill(child, 0)


def test_words_for_people(daemon: Running, image: Path) -> None:
    ran = userfault("client", f"--firecracker={daemon.folder}/vm", f"--image={image}")
    assert ran.returncode == 0
    assert ran.stdout.startswith("right\n")
    assert "p99" in ran.stdout


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--regions=4k,8k"], "together"),
        (["--regions=600"], "600 regions"),
        (["--page-size=8k"], "pages of 8192 bytes"),
        (["--page-size=much"], "is no size"),
    ],
)
def test_what_makes_no_sense_is_told(image: Path, arguments: list[str], said: str) -> None:
    ran = userfault("client", "--firecracker=/nowhere", f"--image={image}", *arguments)
    assert ran.returncode in (2, 3)
    assert said in ran.stderr


@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("pages", [1, 7, 100])
def test_an_order_has_every_page_once(pattern: str, pages: int) -> None:
    assert sorted(order(pattern, pages, 8, 3)) == list(range(pages))
