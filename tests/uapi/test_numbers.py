"""The numbers themselves, written out: what programs and traces of these calls show."""

from __future__ import annotations

import ctypes
import mmap
import os
import subprocess
import sys

import pytest

from userfault.uapi import kvm, pagemap, userfaultfd
from userfault.uapi.layout import Layout
from userfault.uapi.mman import MADV_GUARD_INSTALL
from userfault.uapi.syscalls import SYSCALLS

REQUESTS = {
    "USERFAULTFD_IOC_NEW": (0x0000AA00, None),
    "UFFDIO_REGISTER": (0xC020AA00, "uffdio_register"),
    "UFFDIO_UNREGISTER": (0x8010AA01, "uffdio_range"),
    "UFFDIO_WAKE": (0x8010AA02, "uffdio_range"),
    "UFFDIO_COPY": (0xC028AA03, "uffdio_copy"),
    "UFFDIO_ZEROPAGE": (0xC020AA04, "uffdio_zeropage"),
    "UFFDIO_MOVE": (0xC028AA05, "uffdio_move"),
    "UFFDIO_WRITEPROTECT": (0xC018AA06, "uffdio_writeprotect"),
    "UFFDIO_CONTINUE": (0xC020AA07, "uffdio_continue"),
    "UFFDIO_POISON": (0xC020AA08, "uffdio_poison"),
    "UFFDIO_RWPROTECT": (0xC018AA09, "uffdio_rwprotect"),
    "UFFDIO_SET_MODE": (0x4010AA0A, "uffdio_set_mode"),
    "UFFDIO_API": (0xC018AA3F, "uffdio_api"),
}


@pytest.mark.parametrize("name", REQUESTS)
def test_request_numbers_and_argument_sizes(name: str) -> None:
    number, layout = REQUESTS[name]

    assert getattr(userfaultfd, name) == number
    size = getattr(userfaultfd, layout).size if layout else 0
    assert size == number >> 16 & 0x3FFF


def test_requests_of_the_other_rooms() -> None:
    assert pagemap.PAGEMAP_SCAN == 0xC0606610
    assert pagemap.pm_scan_arg.size == 96
    assert kvm.KVM_CREATE_GUEST_MEMFD == 0xC040AED4
    assert kvm.KVM_SET_USER_MEMORY_REGION2 == 0x40A0AE49


def test_masks() -> None:
    assert userfaultfd.UFFD_API_FEATURES == 0x7FFFF
    assert userfaultfd.UFFD_API_IOCTLS == 0x8000000000000403
    assert userfaultfd.UFFD_API_RANGE_IOCTLS == 0x3FC
    assert userfaultfd.UFFD_API_RANGE_IOCTLS_BASIC == 0x3CC
    assert userfaultfd.UFFD_API_REGISTER_MODES == 0xF


def test_messages_are_32_bytes_of_each_kind() -> None:
    assert {it.size for it in userfaultfd.UFFD_MSG_LAYOUTS.values()} == {32}
    assert sorted(userfaultfd.UFFD_MSG_LAYOUTS) == [0x12, 0x13, 0x14, 0x15, 0x16]
    assert userfaultfd.uffd_msg.size == 32
    pagefault = userfaultfd.uffd_msg_pagefault
    assert [pagefault.offset(name) for name in pagefault.names] == [0, 8, 16, 24]


def test_layouts_are_named_as_they_are_spelled() -> None:
    for table in (userfaultfd, pagemap, kvm):
        for name, value in vars(table).items():
            if isinstance(value, Layout):
                assert value.name == name


def test_both_machines_have_the_same_calls() -> None:
    assert SYSCALLS["x86_64"].keys() == SYSCALLS["aarch64"].keys()


def page_word(memory: mmap.mmap) -> int:
    """The pagemap word of a mapping's first page."""
    address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    with open("/proc/self/pagemap", "rb", buffering=0) as file:
        return int.from_bytes(
            os.pread(file.fileno(), 8, address // mmap.PAGESIZE * 8), sys.byteorder
        )


def test_pagemap_bits_on_the_running_kernel() -> None:
    """No header declares these bits, so the kernel itself has to confirm them."""
    kinds = pagemap.PM_PRESENT | pagemap.PM_SWAP | pagemap.PM_FILE | pagemap.PM_UFFD_WP
    private = mmap.mmap(-1, mmap.PAGESIZE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    assert page_word(private) & kinds == 0
    private[0] = 1
    word = page_word(private)
    assert word & kinds == pagemap.PM_PRESENT
    assert word & pagemap.PM_MMAP_EXCLUSIVE

    shared = mmap.mmap(-1, mmap.PAGESIZE, flags=mmap.MAP_SHARED | mmap.MAP_ANONYMOUS)
    shared[0] = 1
    assert page_word(shared) & kinds == pagemap.PM_PRESENT | pagemap.PM_FILE


def test_pagemap_guard_bit_on_the_running_kernel() -> None:
    memory = mmap.mmap(-1, mmap.PAGESIZE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    try:
        memory.madvise(MADV_GUARD_INSTALL)
    except OSError as error:
        pytest.skip(f"this kernel has no guard pages (6.13): {error}")
    word = page_word(memory)
    if not word & pagemap.PM_GUARD_REGION and tuple_release() < (6, 15):
        pytest.skip("this kernel does not report guard pages (6.15)")

    assert word & pagemap.PM_GUARD_REGION


def tuple_release() -> tuple[int, int]:
    major, minor = os.uname().release.split(".")[:2]
    return int(major), int(minor.split("-")[0])


def test_the_room_imports_only_struct() -> None:
    """A pager imports these modules before it can serve; heavy standard modules would delay it."""
    code = """
import sys
import userfault
before = set(sys.modules)
from userfault.uapi import ioc, kvm, layout, mman, pagemap, syscalls, userfaultfd
extra = {n for n in set(sys.modules) - before if not n.startswith("userfault.uapi")}
print(*sorted(extra - {"struct", "_struct", "__future__"}))
"""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    result = subprocess.run(
        [sys.executable, "-c", code],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )

    assert result.stdout.split() == []
