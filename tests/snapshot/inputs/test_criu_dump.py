"""A real dump by CRIU of a real process: every page that the process had is in the snapshot."""

from __future__ import annotations

import contextlib
import os
import signal
import struct
import subprocess
from pathlib import Path

import pytest

from helpers.criu import need_criu
from snapshot.dumps import kinds, whole
from snapshot.target import PAGE, PAGES, TOUCHED, Target, content
from userfault.snapshot.inputs.opening import open_image_file
from userfault.snapshot.inputs.protocol import Holds, PageInput

KINDS = ("private", "shared", "memfd", "copied", "file")


def memory_of(pid: int, start: int, length: int) -> bytes:
    """What a process has at an address."""
    with open(f"/proc/{pid}/mem", "rb", buffering=0) as file:
        file.seek(start)
        return file.read(length)


def at(pages: PageInput, address: int) -> int:
    """The position in the image of an address."""
    for region in pages.regions:
        if region.start <= address < region.start + region.length:
            return region.offset + address - region.start
    raise AssertionError(f"{address:#x} is in no region")


@pytest.mark.timeout(600)  # the first of its tests loads packages
def test_a_dump_has_every_page_that_the_process_had(tmp_path: Path) -> None:
    criu = need_criu()
    folder = tmp_path / "dump"
    folder.mkdir()
    with Target(tmp_path, *KINDS, detached=True) as target:
        os.kill(target.pid, signal.SIGSTOP)
        had = {kind: memory_of(target.pid, target.at[kind], PAGES * PAGE) for kind in KINDS}
        done = subprocess.run(
            [*criu, "dump", "-t", str(target.pid), "--images-dir", str(folder), "-v2"],
            capture_output=True,
            text=True,
            timeout=100,
            check=False,
        )
        assert done.returncode == 0, done.stderr
    with contextlib.closing(open_image_file(str(folder))) as pages:
        assert pages.kind == "criu"
        everything = whole(pages)
        for kind in KINDS:
            start = at(pages, target.at[kind])
            for number in range(PAGES):
                part = slice(number * PAGE, (number + 1) * PAGE)
                found = everything[start:][part]
                if kind == "file" and number not in TOUCHED:
                    assert found == bytes(PAGE)  # it is in the file, not in the dump
                else:
                    assert found == had[kind][part], (kind, number)
            assert had[kind][PAGE:].startswith(content(kind, 1))
        assert kinds(pages)[Holds.HOLE] > 0
        assert {"[heap]", "[stack]"} <= {region.name for region in pages.regions}
        about = pages.finish()
        assert about["pid"] == str(target.pid)
        stack = next(region for region in pages.regions if region.name == "[stack]")
        values = struct.unpack("<27Q", bytes.fromhex(about[f"registers {target.pid}"]))
        assert stack.start <= values[19] < stack.start + stack.length  # rsp
        assert pages.warnings == []
