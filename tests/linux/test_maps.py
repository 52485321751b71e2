"""/proc/PID/maps, line by line."""

from __future__ import annotations

import mmap
import os
from pathlib import Path

from userfault.linux import maps
from userfault.linux.maps import Mapping

TEXT = """\
55d0c0a00000-55d0c0a02000 r-xp 00001000 fe:01 1234                       /usr/bin/a b
55d0c0c00000-55d0c0c21000 rw-p 00000000 00:00 0                          [heap]
7f0000000000-7f0000001000 ---p 00000000 00:00 0
7f0000002000-7f0000003000 rw-s 00002000 00:01 77                         /memfd:x (deleted)
7f0000004000-7f0000005000 r--s 00000000 00:19 5                          /tmp/new\\012line
"""


def test_a_line_is_a_mapping() -> None:
    found = list(maps.parsed(TEXT.encode()))
    assert found[0] == Mapping(
        0x55D0C0A00000, 0x55D0C0A02000, "r-xp", 0x1000, "fe:01", 1234, "/usr/bin/a b"
    )
    assert [mapping.name for mapping in found[1:]] == [
        "[heap]",
        "",
        "/memfd:x (deleted)",
        "/tmp/new\nline",
    ]
    assert [mapping.protection for mapping in found] == [5, 3, 0, 3, 1]
    assert [mapping.shared for mapping in found] == [False, False, False, True, True]
    assert found[0].length == 0x2000


def test_a_name_is_any_bytes_and_makes_no_mapping() -> None:
    names = [
        b"/a\rb",
        b"/a\\999b \\101 \\",
        b"/x\r7f0000000000-7f0000001000 rw-p 00000000 00:00 0 [heap]",
        b"/x\x0b\x0c\x1c\xc2\x85\xe2\x80\xa8y ",
        b"/caf\xe9",
        b"/two\nlines",
    ]
    line = b"7f0000004000-7f0000005000 r--s 00000000 00:19 5                          "
    data = b"".join(line + name.replace(b"\n", rb"\012") + b"\n" for name in names)
    assert [os.fsencode(mapping.name) for mapping in maps.parsed(data)] == names


def test_files_that_live_in_memory_alone_are_told_from_others() -> None:
    found = list(maps.parsed(TEXT.encode()))
    assert [maps.is_memory_file(mapping, frozenset()) for mapping in found] == [
        False,
        False,
        False,
        True,
        False,
    ]
    assert maps.is_memory_file(found[4], frozenset({"00:19"}))


def test_the_file_systems_in_memory_of_this_machine_are_known() -> None:
    shm = os.stat("/dev/shm")
    device = f"{os.major(shm.st_dev):02x}:{os.minor(shm.st_dev):02x}"
    kinds = {
        line.split()[2]: line.partition(" - ")[2].split()[0]
        for line in Path("/proc/self/mountinfo").read_text().splitlines()
    }
    on_tmpfs = kinds.get(f"{os.major(shm.st_dev)}:{os.minor(shm.st_dev)}") == "tmpfs"
    assert (device in maps.memory_devices(os.getpid())) == on_tmpfs


def test_a_mapping_of_this_process_is_found() -> None:
    with mmap.mmap(-1, 3 * mmap.PAGESIZE):
        found = maps.mappings(os.getpid())
    assert found == sorted(found, key=lambda mapping: mapping.start)
    assert any(each.name.startswith("/dev/zero") and each.shared for each in found)
    assert "[stack]" in {each.name for each in found}
