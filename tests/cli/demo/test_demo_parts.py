"""The parts of the demo: capture, touch order, verification, exit code, figures, picture."""

from __future__ import annotations

import mmap
import os
import signal
import struct
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ET
from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import msgspec
import pytest
from click.testing import CliRunner

from cli.commands import environment
from userfault.cli.demo import demo as demo_module
from userfault.cli.demo.capture import Image, Mapping, capture, readable_mappings
from userfault.cli.demo.client import Job, Refused, Restored, digest, run
from userfault.cli.demo.order import touch_order
from userfault.cli.demo.picture import draw
from userfault.cli.demo.report import Demo, Order, Run, Target, time_name
from userfault.cli.shared.children import python_child
from userfault.kernel.memtypes import memory
from userfault.linux import maps

PAGE = 4096

MAPS = """\
55d0c0000000-55d0c0002000 r--p 00000000 08:01 12 /usr/bin/python3 with a space
55d0c0002000-55d0c0003000 ---p 00000000 00:00 0
55d0c0003000-55d0c0004000 rw-s 00000000 00:01 9 /dev/zero (deleted)
55d0c1000000-55d0c1004000 rw-p 00000000 00:00 0 [heap]
7f0000000000-7f0000001000 rw-p 00000000 00:00 0 \n\
7ffc00000000-7ffc00004000 r--p 00000000 00:00 0 [vvar]
7ffc00004000-7ffc00006000 r--p 00000000 00:00 0 [vvar_vclock]
7ffc00006000-7ffc00008000 r-xp 00000000 00:00 0 [vdso]
ffffffffff600000-ffffffffff601000 --xp 00000000 00:00 0 [vsyscall]
"""


def test_private_readable_mappings_are_taken_one_after_the_other() -> None:
    assert [
        (m.start, m.length, m.offset, m.name) for m in readable_mappings(maps.parsed(MAPS.encode()))
    ] == [
        (0x55D0C0000000, 2 * PAGE, 0, "/usr/bin/python3 with a space"),
        (0x55D0C1000000, 4 * PAGE, 2 * PAGE, "[heap]"),
        (0x7F0000000000, PAGE, 6 * PAGE, ""),
    ]


def test_a_capture_has_what_the_process_holds() -> None:
    program = (
        "import sys; held = bytearray(b'needle-' * 100_000); tail = bytearray(8 << 20);"
        " print('ready', flush=True); sys.stdin.read()"
    )
    with (
        subprocess.Popen(
            [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        ) as child,
        tempfile.TemporaryFile() as file,
    ):
        assert child.stdin is not None
        assert child.stdout is not None
        assert child.stdout.readline() == b"ready\n"
        image = capture(child.pid, file)
        assert state(child.pid) != "T", "it goes on"
        child.stdin.close()
        assert child.wait() == 0
        data = os.pread(file.fileno(), image.length, 0)
        assert b"needle-" * 100_000 in data
        assert image.zero >= (8 << 20) // PAGE
        assert image.stored + image.zero + image.unreadable == image.length // PAGE
        holes = sum(data[at : at + PAGE] == bytes(PAGE) for at in range(0, len(data), PAGE))
        assert holes == image.zero + image.unreadable
        assert os.fstat(file.fileno()).st_blocks * 512 <= (image.stored + 256) * PAGE


def state(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def test_the_order_is_that_of_the_pointers() -> None:
    heap, stack = 0x5000_0000_0000, 0x7FFC_0000_0000
    mappings = [
        Mapping(heap, heap + 8 * PAGE, 0, "rw-p", "[heap]"),
        Mapping(stack, stack + 2 * PAGE, 8 * PAGE, "rw-p", "[stack]"),
    ]
    words = {  # page -> pointers in it
        9: [heap + 5 * PAGE + 64, heap + 2 * PAGE],
        5: [heap + 7 * PAGE, 0xDEAD_BEEF_0000, heap + 5 * PAGE],
        0: [heap + 3 * PAGE],
    }
    with mmap.mmap(-1, 10 * PAGE) as data:
        for page, pointers in words.items():
            for number, pointer in enumerate(pointers):
                struct.pack_into("<Q", data, page * PAGE + 32 * number, pointer)
        image = Image(10 * PAGE, 3, 7, 0, mappings)
        # The stack from its top, each pointer to its end before the next; then the heap's start.
        assert touch_order(image, data).tolist() == [9, 5, 7, 2, 8, 0, 3]
        assert touch_order(image, data, 3).tolist() == [9, 5, 7]


# --- verification --------------------------------------------------------------------------------


@pytest.fixture
def image() -> Iterator[BinaryIO]:
    with tempfile.TemporaryFile() as file:
        file.write(b"".join(struct.pack("<Q", page) * (PAGE // 8) for page in range(64)))
        file.flush()
        yield file


def restored(image: BinaryIO) -> Restored:
    job = Job(image.fileno(), 64 * PAGE, "anon", PAGE, False)
    return run(job, array("I", [3, 60, 1, 3]))


def expected(image: BinaryIO) -> str:
    with mmap.mmap(image.fileno(), 64 * PAGE, prot=mmap.PROT_READ) as data:
        return digest(data)


def test_what_is_restored_is_verified(image: BinaryIO) -> None:
    done = Run(memory("anon"), False, restored(image), expected(image))
    assert done.verified
    assert not done.failed


def test_one_wrong_byte_is_found(image: BinaryIO) -> None:
    found = restored(image)
    os.pwrite(image.fileno(), b"\x01", 63 * PAGE + 4095)
    done = Run(memory("anon"), False, found, expected(image))
    assert not done.verified
    assert done.failed


def test_a_wrong_byte_at_a_touch_is_found_even_if_it_is_right_at_the_end(image: BinaryIO) -> None:
    found = msgspec.structs.replace(restored(image), wrong=1)
    assert Run(memory("anon"), False, found, expected(image)).failed


def report(runs: list[Run]) -> Demo:
    target = Target(1, 64 * PAGE, 64 * PAGE, 64, 0, 0, "", 0.1, 0.1)
    return Demo("6.18", target, Order(3, 0.1), runs, "picture.svg", "", 1.0)


@pytest.mark.parametrize(
    ("change", "code", "said"),
    [
        ({}, 0, "yes"),
        ({"digest": "0" * 64}, 1, "digest " + "0" * 64),
        ({"wrong": 2}, 1, "2 touches read a wrong byte"),
    ],
)
def test_the_exit_code_tells_whether_it_is_verified(
    change: dict[str, object],
    code: int,
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    """The demo as it is, but for clients that report something else than they found."""
    honest = demo_module._run

    def lying(*arguments: object) -> Run:
        done = honest(*arguments)  # type: ignore[arg-type]
        assert isinstance(done.outcome, Restored)
        return msgspec.structs.replace(
            done, outcome=msgspec.structs.replace(done.outcome, **change)
        )

    monkeypatch.setattr(demo_module, "_run", lying)
    picture = tmp_path / "picture.svg"
    done = CliRunner(env={"COLUMNS": "300"}).invoke(
        demo_module.demo,
        ["--size", "8", "--memory", "anon", "--output", str(picture)],
        standalone_mode=False,
    )
    assert done.exception is None
    assert done.return_value == code
    assert said in done.output
    assert ("NOT VERIFIED" in picture.read_text()) is bool(code)


def test_a_client_that_dies_is_a_failure_that_says_how() -> None:
    done = report([Run(memory("anon"), False, None, "", "the client ended with -7")])
    assert done.failed
    assert not done.verified


def test_memory_that_is_not_here_is_no_failure(image: BinaryIO) -> None:
    refused = Run(memory("guest_memfd"), False, Refused("no", "because", "none"), "")
    assert not refused.failed
    assert not report([refused]).verified
    good = Run(memory("anon"), False, restored(image), expected(image))
    assert report([refused, good]).verified


# --- figures and picture -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("microseconds", "text"),
    [(0.4, "0 µs"), (64.3, "64 µs"), (999.4, "999 µs"), (5523, "5.5 ms"), (4690990, "4.7 s")],
)
def test_times_have_the_unit_that_suits_them(microseconds: float, text: str) -> None:
    assert time_name(microseconds) == text


def test_a_picture_without_any_restore_is_a_picture() -> None:
    refused = Run(memory("guest_memfd"), False, Refused("no", "because", "none"), "")
    assert "no memory was restored" in draw(report([refused]), [])


def test_a_run_that_did_not_finish_has_an_empty_panel(image: BinaryIO) -> None:
    good = Run(memory("anon"), False, restored(image), expected(image))
    bad = Run(memory("anon"), True, None, "", "the client ended with -7")
    drawn = draw(report([good, bad]), [Mapping(0, 64 * PAGE, 0, "rw-p", "[heap]")])
    ET.fromstring(drawn)
    assert "did not finish" in drawn


# --- children ------------------------------------------------------------------------------------


def test_a_child_that_ignores_everything_is_ended() -> None:
    with python_child("userfault.cli.demo.target", "8") as child:
        os.kill(child.pid, signal.SIGSTOP)
    assert child.returncode is not None


def test_a_child_dies_with_a_parent_that_is_killed() -> None:
    program = (
        "import time\n"
        "from userfault.cli.shared.children import python_child\n"
        "with python_child('userfault.cli.demo.target', '8') as child:\n"
        "    child.stdout.readline()\n"
        "    print(child.pid, flush=True)\n"
        "    time.sleep(60)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program], env=environment(), stdout=subprocess.PIPE, text=True
    ) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        parent.kill()
        parent.wait()
        deadline = time.monotonic() + 30
        while Path(f"/proc/{pid}").exists() and state(pid) != "Z":
            assert time.monotonic() < deadline, "the child lives on"
            time.sleep(0.01)
