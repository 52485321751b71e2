"""ELF cores of process images, as readelf and gdb see them."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import struct
import subprocess
from pathlib import Path

import pytest

from helpers.programs import need_program
from snapshot.dumps import page
from snapshot.images import HOLE, ZERO, Page, Pages
from snapshot.target import TOUCHED, Target, content
from userfault.kernel.errors import UsageError
from userfault.snapshot.inputs.process import ProcessInput
from userfault.snapshot.inputs.protocol import PAGE, PageInput, Region
from userfault.snapshot.packing.pack import pack
from userfault.snapshot.serving.image import open_image
from userfault.snapshot.serving.reading import open_reader
from userfault.snapshot.stores.opening import open_objects
from userfault.snapshot.upkeep.elf import export_elf

HEAP, LIBRARY, STACK = 0x10000, 0x7F0000000000, 0x7FF000000000


def core(folder: Path, pages: PageInput) -> Path:
    """The core of an input."""
    objects = open_objects(folder / "store")
    pack(objects, "process", pages)
    with contextlib.closing(open_reader(str(folder / "store"))) as reader:
        export_elf(open_image(objects, "process"), reader, str(folder / "core"))
    return folder / "core"


def three_regions() -> Pages:
    """A heap, a library of which two pages are there, a stack."""
    content: list[Page] = [page(1), HOLE, page(2), HOLE, page(3), HOLE, HOLE, page(4), ZERO]
    regions = [
        Region(HEAP, 2 * PAGE, 0, 3, False, "[heap]"),
        Region(LIBRARY, 5 * PAGE, 2 * PAGE, 5, False, "/usr/lib/libx.so", 7 * PAGE),
        Region(STACK, 2 * PAGE, 7 * PAGE, 3, False, "[stack]"),
    ]
    return Pages(content, regions=regions)


def loads(path: Path) -> list[tuple[int, bytes, int, int]]:
    """Address, bytes, length in memory and flags of each PT_LOAD, by the ELF specification."""
    data = path.read_bytes()
    table, count = struct.unpack_from("<Q", data, 32)[0], struct.unpack_from("<H", data, 56)[0]
    found = []
    for number in range(count):
        kind, flags, offset, address, _, stored, length, _ = struct.unpack_from(
            "<IIQQQQQQ", data, table + 56 * number
        )
        if kind == 1:
            found.append((address, data[offset : offset + stored], length, flags))
    return found


def readelf(path: Path, *options: str) -> str:
    need_program("readelf", "binutils")
    done = subprocess.run(
        ["readelf", "--wide", *options, str(path)], capture_output=True, text=True, check=True
    )
    assert not done.stderr
    return done.stdout


def gdb(path: Path, *commands: str, executable: str = "") -> str:
    need_program("gdb", "gdb")
    asked = [word for command in commands for word in ("-ex", command)]
    named = [executable] if executable else ["-ex", f"core-file {path}"]
    done = subprocess.run(
        ["gdb", "-batch", "-nx", *named, *([str(path)] if executable else []), *asked],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return done.stdout + done.stderr


def test_memory_is_one_segment_a_region_and_files_one_a_run(tmp_path: Path) -> None:
    zeros = bytes(PAGE)
    read_write, read_execute = 6, 5
    assert loads(core(tmp_path, three_regions())) == [
        (HEAP, page(1) + zeros, 2 * PAGE, read_write),
        (LIBRARY, page(2), PAGE, read_execute),
        (LIBRARY + PAGE, b"", PAGE, read_execute),
        (LIBRARY + 2 * PAGE, page(3), PAGE, read_execute),
        (LIBRARY + 3 * PAGE, b"", 2 * PAGE, read_execute),
        (STACK, page(4) + zeros, 2 * PAGE, read_write),
    ]


def test_readelf_takes_it_for_a_core_with_the_files_that_were_mapped(tmp_path: Path) -> None:
    path = core(tmp_path, three_regions())
    assert "CORE (Core file)" in readelf(path, "--file-header")
    assert readelf(path, "--segments").count("LOAD") == 6
    assert "NT_FILE" in readelf(path, "--notes")  # 2.40 does not decode it, whoever wrote it
    start, end = f"{LIBRARY:#x}", f"{LIBRARY + 5 * PAGE:#x}"
    told = gdb(path, "info proc mappings")
    assert re.search(rf"{start}\s+{end}\s+0x5000\s+0x7000\s+/usr/lib/libx.so", told), told


def test_holes_stay_holes_in_the_core(tmp_path: Path) -> None:
    content: list[Page] = [HOLE] * 2000
    path = core(tmp_path, Pages(content, regions=[Region(HEAP, 2000 * PAGE, 0, 3)]))
    assert path.stat().st_size > 2000 * PAGE
    assert path.stat().st_blocks * 512 < 1 << 16


def test_more_segments_than_the_header_can_count(tmp_path: Path) -> None:
    count = 70_000
    regions = [Region(HEAP + 2 * n * PAGE, PAGE, n * PAGE, 3) for n in range(count)]
    path = core(tmp_path, Pages([HOLE] * count, regions=regions))
    assert f"65535 ({count + 1})" in readelf(path, "--file-header")
    assert readelf(path, "--segments").count("LOAD") == count


def test_an_image_without_addresses_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot become an ELF core"):
        core(tmp_path, Pages([page(1)]))
    assert not (tmp_path / "core").exists()


def test_gdb_reads_the_memory_of_a_process_that_was_packed(tmp_path: Path) -> None:
    with Target(tmp_path, "private", "file") as target:
        os.kill(target.pid, signal.SIGSTOP)
        with contextlib.closing(ProcessInput(target.pid, registers=True)) as pages:
            path = core(tmp_path, pages)
        pid = target.pid
        executable = os.readlink(f"/proc/{target.pid}/exe")
        wanted = [
            (target.at[kind] + number * PAGE, content(kind, number).decode())
            for kind in ("private", "file")
            for number in TOUCHED
        ]
    asked = [f"x/s {address:#x}" for address, _ in wanted]
    told = gdb(path, *asked, "info sharedlibrary", "info threads", "x/i $pc", executable=executable)
    for address, text in wanted:
        assert re.search(rf'{address:#x}:\s+"{text}', told), told
    assert "libc.so" in told  # found through the auxiliary vector
    assert f"LWP {pid}" in told
    assert re.search(r"=> 0x[0-9a-f]+ <?.*:\s+[a-z]", told), told
    assert "corrupt" not in told  # as of a vdso that is not whole


@pytest.mark.parametrize(
    "about",
    [
        {"pid": "²", "command": "x", "auxv": "zz", "registers 1": "no", "registers ²": "00"},
        {"pid": "9" * 40, "command": "\0", "machine": "abacus", "registers 99999999999": "00"},
    ],
)
def test_words_of_a_hostile_manifest_break_nothing(tmp_path: Path, about: dict[str, str]) -> None:
    pages = three_regions()
    pages.finish = lambda: about  # type: ignore[method-assign]
    assert len(loads(core(tmp_path, pages))) == 6


def test_addresses_up_to_the_last_one(tmp_path: Path) -> None:
    region = Region((1 << 64) - PAGE, PAGE, 0, 5, False, "/top")
    assert loads(core(tmp_path, Pages([page(1)], regions=[region]))) == [
        ((1 << 64) - PAGE, page(1), PAGE, 5)
    ]
