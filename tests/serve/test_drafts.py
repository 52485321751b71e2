"""Clients of the drafts are told apart by their first bytes, and served or refused."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from helpers import child
from helpers.waiting import wait_until
from serve.daemons import Running, serving
from serve.draft_scenes import HELLO
from serve.test_hostile import ended

SIZE = 512 * 4096
OK = struct.pack("<H6xQ", 1, 0).hex()
ACKNOWLEDGED = {"handoff": "01", "frames": OK}


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory, image: Path) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("daemon")
    limits = ("--handshake-timeout", "20")
    with serving(folder, "--drafts", str(folder / "d"), "--image", str(image), *limits) as running:
        yield running


def told(form: str, text: str) -> tuple[int, int]:
    """Size and block size in the answer to stat."""
    if form == "nydus":
        answer = json.loads(text)
        assert answer["type"] == 3
        return answer["size"], answer["block_size"]
    data = bytes.fromhex(text)
    size, block, _ = struct.unpack("<QII", data[-16:])
    if form == "frames":
        assert struct.unpack("<HHIQ", data[:16]) == (1, 0x20, 0, 16)
    else:
        assert struct.unpack("<IHHQI", data[:20]) == (0x55464644, 0, 0x82, 0, 16)
    return size, block


@pytest.mark.parametrize("form", HELLO)
def test_each_form_is_served_every_byte_and_told_nothing_unasked(
    daemon: Running, image: Path, form: str
) -> None:
    path = str(daemon.folder / "d")
    answer = child.run("serve.draft_scenes:served", path, str(image), form, "", -1)
    assert answer["same"]
    assert (answer["acknowledged"], answer["rest"]) == (ACKNOWLEDGED.get(form, ""), "")
    if answer["told"]:
        assert told(form, answer["told"]) == (SIZE, 4096)


@pytest.mark.parametrize(
    ("form", "half"),
    [("handoff", 30), ("handoff", -1), ("frames", 1), ("frames", -1), ("magic", 4), ("nydus", 30)],
)
def test_a_worker_that_is_killed_takes_no_message_along(
    daemon: Running, image: Path, tmp_path: Path, form: str, half: int
) -> None:
    go = tmp_path / "go"
    path = str(daemon.folder / "d")
    one = child.start("serve.draft_scenes:served", path, str(image), form, str(go), half)
    try:
        wait_until(Path(f"{go}.there").exists)
        daemon.kill("worker")
        go.touch()
        answer = child.finish(one)
    finally:
        one.kill()
    assert answer["same"]
    assert (answer["acknowledged"], answer["rest"]) == (ACKNOWLEDGED.get(form, ""), "")


def test_memory_that_is_plugged_in_is_zeros(daemon: Running) -> None:
    answer = child.run("serve.draft_scenes:more_memory", str(daemon.folder / "d"))
    assert answer == {"answers": "0101", "zeros": True, "first": "00" * 8}


def test_regions_go_and_what_is_not_known_is_answered_with_an_error(daemon: Running) -> None:
    statuses = child.run("serve.draft_scenes:fewer_and_unknown", str(daemon.folder / "d"))
    assert statuses == [1, 1, 2, 2]


REFUSED: dict[str, tuple[str, dict[str, Any], int, str]] = {
    "to be mapped, in frames": ("frames", {"flags": 4}, 1, "wants to map"),
    "to be mapped, with the magic": ("magic", {"flags": 0}, 1, "wants to map"),
    "to be mapped, of Nydus": ("nydus", {"policy": 0}, 1, "wants to map"),
    "write protection": ("frames", {"modes": 2}, 1, "modes 2"),
    "write protection, handed off": ("handoff", {"mode": "MISSING|WP"}, 1, "mode 'MISSING|WP'"),
    "another version": ("handoff", {"version": 1}, 1, "version 1"),
    "another process": ("handoff", {"vmm_pid": 1}, 1, "speaks for another process"),
    "a fork's": ("handoff", {"protocol": "meridian-uffd-handoff"}, 1, "is a fork's"),
    "no regions": ("handoff", {"regions": []}, 1, "it names no region"),
    "two descriptors": ("magic", {}, 2, "with 2 descriptors"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_not_served_is_refused_with_a_reason(daemon: Running, case: str) -> None:
    """Who has handed over its memory is ended: it would hang at its first page."""
    form, changed, fds, said = REFUSED[case]
    one = child.start("serve.draft_scenes:refused", str(daemon.folder / "d"), form, changed, fds)
    assert ended(one) == "killed"
    daemon.logged(f"drafts {one.pid}: refused: ")
    assert said in daemon.log


BYTES = {
    "rubbish": (b"GET / HTTP/1.1\r\n", "as none of the drafts does"),
    "a length beyond all bounds": (struct.pack("<HHBBHQ", 10, 1, 5, 1, 2, 1 << 60), "allowed"),
    "with the magic": (struct.pack("<IHHQI", 0x55464644, 0, 1, 0, 0xFFFFFFF0), "allowed"),
    "a text beyond all bounds": (b"\xff\xff\xff\x00{", "allowed"),
    "a text that ends in itself": (b"[" * 1000, "nested too deeply"),
    "no descriptor": (b"[" + b" " * 8 + b"]", "with 0 descriptors"),
    "no version": (struct.pack("<H6xQ", 0x0A, 0), "version 0"),
}


@pytest.mark.parametrize("case", BYTES)
def test_bytes_that_are_no_greeting_are_refused(daemon: Running, case: str) -> None:
    data, said = BYTES[case]
    before = daemon.log.count(said)
    one = child.start("serve.draft_scenes:bytes_only", str(daemon.folder / "d"), data.hex())
    assert ended(one) == "closed"
    wait_until(lambda: daemon.log.count(said) > before)
