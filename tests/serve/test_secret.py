"""VMs with a guest_memfd: every page is there before its bit goes, and holes are zeros."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from helpers import child
from helpers.waiting import wait_until
from serve.daemons import Running, serving
from serve.test_hostile import ended
from userfault.linux.shared_bits import SharedBits


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory, image: Path) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("daemon")
    with serving(folder, "--guest-memfd", str(folder / "vm"), "--image", str(image)) as running:
        yield running


@pytest.mark.parametrize("generation", ["A", "B"])
def test_every_page_is_the_images_and_holes_are_zeros(
    daemon: Running, image: Path, generation: str
) -> None:
    path = str(daemon.folder / "vm")
    assert child.run("serve.secret_scenes:everything", path, str(image), generation) == []


@pytest.mark.parametrize("generation", ["A", "B"])
def test_a_worker_that_is_killed_loses_no_fault(
    daemon: Running, image: Path, tmp_path: Path, generation: str
) -> None:
    path, go = str(daemon.folder / "vm"), tmp_path / "go"
    one = child.start("serve.secret_scenes:through_a_kill", path, str(image), generation, str(go))
    try:
        wait_until(Path(f"{go}.there").exists)
        for role in ("worker", "supervisor", "spare", "worker"):
            daemon.kill(role)
        go.touch()
        assert child.finish(one) == []
    finally:
        one.kill()


@pytest.mark.parametrize(
    ("generation", "data", "said"),
    [
        ("A", b'{"vcpu":0,"offset":1099511627776,"flags":0}', "no memory is there"),
        ("A", b"[[[[[[[[[[[[[[[[[[", "nested too deeply"),
        ("B", b"\xff\xff\xff\x7f", "4096 are allowed"),
        ("B", b"\x02\0\0\0\x09\x00", "tag 9"),
        ("B", bytes.fromhex("0b000000 042106000610010200503412"), "cut short"),
        ("B", bytes.fromhex("0c000000 042106000610010200000000"), "a fault of vCPU 33"),
    ],
)
def test_nonsense_ends_the_vm_and_is_told(
    daemon: Running, generation: str, data: bytes, said: str
) -> None:
    path = str(daemon.folder / "vm")
    one = child.start("serve.secret_scenes:asks_for_nonsense", path, generation, data.hex())
    assert ended(one) == "killed"
    daemon.logged(said)


def test_rings_are_refused_with_a_cure(daemon: Running) -> None:
    one = child.start("serve.secret_scenes:has_rings", str(daemon.folder / "vm"))
    assert ended(one) == "killed"
    daemon.logged("switch them off in the VMM")


def test_an_ordinary_vm_is_sent_to_its_socket(daemon: Running) -> None:
    one = child.start("serve.draft_scenes:refused", str(daemon.folder / "vm"), "array", {}, 1)
    assert ended(one) == "killed"
    daemon.logged("a VM with 1 descriptors")


def test_bits_of_one_word_are_cleared_by_many_at_once_and_none_is_lost() -> None:
    count = 32 * 64
    fd = os.memfd_create("bits")
    os.write(fd, b"\xff" * (count // 8))
    sets = [SharedBits(fd, count) for _ in range(4)]

    def clear(bits: SharedBits, first: int) -> None:
        for bit in range(first, count - 32, 4):
            bits.clear(bit)

    threads = [
        threading.Thread(target=clear, args=pair) for pair in zip(sets, range(4), strict=True)
    ]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert os.pread(fd, count // 8, 0) == bytes(count // 8 - 4) + b"\xff" * 4
    assert [sets[0][0], sets[0][count - 1]] == [False, True]
    for bits in sets:
        bits.close()
    os.close(fd)
