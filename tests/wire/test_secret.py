"""Messages of Firecracker's guest_memfd branch: both generations, byte by byte.

The bytes of bitcode were checked against the library, version 0.6.
"""

from __future__ import annotations

import json
import struct
from typing import Any

import pytest

from userfault.wire import bitcode, secret
from userfault.wire.errors import BadMessageError
from userfault.wire.secret import Fault, Generation, Sizes

A, B = Generation

REQUESTS = {
    "04 00 06 00 06 10 01 02 00 50 34 12": Fault(0, 0, 0x10, 0x12345000),
    "04 03 06 00 06 30 01 00 00 30 00 00 01 00 00 00": Fault(3, 0, 0x30, 0x100003000),
    "02 2c 01 02 00 f0 ff 7f 06 00 00": Fault(300, 0x7FFFF000, 0, None),
    "00 70 11 01 00 00 00 60 45 23 01 00 00 00 02 ff ff ff ff 01 06 00": Fault(
        70000, 0x123456000, 0xFFFFFFFF, 0
    ),
}
REPLIES: dict[str, tuple[Fault, int, bool]] = {
    "01 04 00 06 00 04 00 10 06 10 01 02 00 50 34 12 00": (
        Fault(0, 0, 0x10, 0x12345000),
        4096,
        False,
    ),
    "01 04 03 06 00 02 00 00 20 00 06 30 01 00 00 30 00 00 01 00 00 00 01": (
        Fault(3, 0, 0x30, 0x100003000),
        2 << 20,
        True,
    ),
}


def framed(text: str) -> bytes:
    body = bytes.fromhex(text)
    return struct.pack("<I", len(body)) + body


@pytest.mark.parametrize("text", REQUESTS)
def test_requests_are_read_as_the_library_writes_them(text: str) -> None:
    assert secret.read(B, framed(text)) == REQUESTS[text]


@pytest.mark.parametrize("text", REPLIES)
def test_replies_are_written_as_the_library_writes_them(text: str) -> None:
    fault, length, zero = REPLIES[text]
    assert secret.reply(B, fault, length, zero=zero) == framed(text)


def test_an_absent_value_is_a_byte() -> None:
    told = bitcode.optional(None) + bitcode.u64(0x4000) + bitcode.u64(4096)
    told += bitcode.u64(0) + bitcode.optional(None) + bitcode.boolean(False)
    assert told.hex(" ") == "00 04 00 40 04 00 10 06 00 00 00"


def test_a_wider_form_than_needed_is_taken_and_another_tag_is_not() -> None:
    assert bitcode.Reader(b"\x00\x05" + bytes(7)).u64() == 5
    assert bitcode.Reader(b"\x00\x05" + bytes(3)).u32() == 5
    for data in (b"\x01\x05", b"\x08\x05", b"\x00\x05", b""):
        with pytest.raises(BadMessageError):
            bitcode.Reader(data).u64()
    with pytest.raises(BadMessageError, match="1 bytes follow"):
        secret.read(B, framed("04 00 06 00 06 10 00 00"))


def test_the_first_generation_speaks_json() -> None:
    asked = b'{"vcpu":0,"offset":8192,"flags":16,"token":null}'
    fault = secret.read(A, asked)
    assert secret.reply(A, fault, 4096, zero=False) == (
        b'{"vcpu":0,"offset":8192,"len":4096,"flags":16,"token":null,"zero":false}'
    )
    sizes = Sizes(1 << 16)
    sizes.faults = A
    assert sizes(asked + asked) == len(asked)


def test_a_frame_is_bounded_before_it_is_taken() -> None:
    sizes = Sizes(1 << 16)
    sizes.faults = B
    assert sizes(b"\x0c\0\0") == 4
    assert sizes(b"\x0c\0\0\0") == 16
    with pytest.raises(BadMessageError, match="4097"):
        sizes(struct.pack("<I", 4093))


@pytest.mark.parametrize("count", [0, 1, 9, 10, 32])
def test_the_second_message_is_taken_to_its_last_byte(count: int) -> None:
    text = b"exitless_apf:%d" % count if count else b"no_exitless_apf"
    sizes = Sizes(1 << 16)
    sizes.second, sizes.descriptors = True, 3 * count
    assert sizes(text + b"\x34\0\0\0") == len(text)
    assert secret.rings(text) == count


@pytest.mark.parametrize("text", [b"exitless_apf:33", b"exitless_apf:x", b"exitless_apf:", b"abc"])
def test_another_second_message_is_refused(text: bytes) -> None:
    with pytest.raises(BadMessageError):
        secret.rings(text)


def region(**more: Any) -> dict[str, Any]:
    return {"base_host_virt_addr": 1 << 20, "size": 8192, "offset": 0, "page_size": 4096, **more}


def test_generations_are_told_apart_and_faults_found() -> None:
    old = secret.handshake(json.dumps([region()]).encode(), 8)
    assert old.generation is A
    assert old.offset_of(Fault(0, 4097, 0)) == 4096
    second = region(gpa_start=4 << 30, base_host_virt_addr=1 << 30, offset=8192)
    new = secret.handshake(json.dumps([region(gpa_start=0), second]).encode(), 8)
    assert new.generation is B
    assert new.offset_of(Fault(0, 0, 0, (4 << 30) + 4096)) == 8192 + 4096
    for fault in (Fault(0, 0, 0, 3 << 30), Fault(0, 1 << 40, 0)):
        with pytest.raises(BadMessageError, match="no memory"):
            new.offset_of(fault)


@pytest.mark.parametrize(
    "regions", [[region(), region(gpa_start=0)], [region(page_size=2 << 20)], [], [region(size=1)]]
)
def test_what_cannot_be_a_guest_is_refused(regions: list[dict[str, Any]]) -> None:
    with pytest.raises(BadMessageError):
        secret.handshake(json.dumps(regions).encode(), 8)
