"""Firecracker's branch `feature/secret-hiding`: VMs whose memory is a guest_memfd.

Their vCPUs' faults come as messages.  Two generations are told apart by the handshake: in B, of
March 2026 and later, each region has `gpa_start`.

| | A | B |
|---|---|---|
| faults | JSON, one object after another | u32 length, bitcode |
| second message | none | `no_exitless_apf`, or `exitless_apf:N` with 3·N descriptors |
"""

from __future__ import annotations

import enum
import struct
from typing import Annotated

import msgspec

from userfault.wire import bitcode
from userfault.wire.errors import BadMessageError
from userfault.wire.json_stream import JsonText
from userfault.wire.regions import Geometry, Region, checked

MOST_FRAME = 4096
MOST_VCPUS = 32
PAGE = 4096
_LENGTH = struct.Struct("<I")
_NO_RINGS = b"no_exitless_apf"
_RINGS = b"exitless_apf:"
_Number = Annotated[int, msgspec.Meta(ge=0, le=(1 << 63) - 1)]


class Generation(enum.IntEnum):
    """Of the protocol."""

    A = 1
    B = 2


class Fault(msgspec.Struct, frozen=True):
    """A vCPU's.  `offset`: in the guest_memfd; of B, where `gpa` is there, that counts."""

    vcpu: Annotated[int, msgspec.Meta(ge=0, lt=1 << 32)]
    offset: _Number
    flags: _Number
    gpa: int | None = None
    token: int | None = None


class _Mapping(msgspec.Struct):
    base_host_virt_addr: _Number
    size: _Number
    offset: _Number
    page_size: _Number = PAGE
    gpa_start: _Number | None = None


class Guest(msgspec.Struct, frozen=True):
    """What the handshake says.  `starts`: guest-physical address of each region, of B."""

    generation: Generation
    geometry: Geometry
    starts: tuple[tuple[int, int, int], ...]  # address, bytes, offset

    def offset_of(self, fault: Fault) -> int:
        """Where in the guest_memfd.  Raises BadMessageError for what is no memory of it."""
        offset = fault.offset if fault.gpa is None else -1
        for start, size, at in self.starts:
            if fault.gpa is not None and start <= fault.gpa < start + size:
                offset = fault.gpa - start + at
        if not 0 <= offset < self.geometry.length:
            raise _bad(f"a fault at gpa {fault.gpa}, offset {fault.offset}: no memory is there")
        return offset // PAGE * PAGE


def handshake(text: bytes, most: int) -> Guest:
    """The regions.  Raises BadMessageError."""
    try:
        found = msgspec.json.decode(text, type=list[_Mapping])
    except (msgspec.MsgspecError, RecursionError, ValueError) as error:
        raise _bad(str(error)) from None
    later = [each for each in found if each.gpa_start is not None]
    if later and len(later) < len(found):
        raise _bad("some regions have gpa_start, and some have not")
    if any(each.page_size != PAGE for each in found):
        raise _bad("a guest_memfd has pages of 4096 bytes")
    regions = [Region(each.base_host_virt_addr, each.size, each.offset) for each in found]
    starts = tuple((each.gpa_start or 0, each.size, each.offset) for each in later)
    generation = Generation.B if later else Generation.A
    return Guest(generation, checked(regions, PAGE, most), starts)


class Sizes:
    """How long messages are (see `Exchange`).  `faults`: which generation's faults are to come;
    None: the handshake.  `second`: the message between is still to come."""

    def __init__(self, most: int) -> None:
        self._most = most
        self.faults: Generation | None = None
        self.second = False
        self.descriptors = 0  # that came with the second message
        self._text: JsonText | None = None

    def __call__(self, data: bytes) -> int:
        """Raises BadMessageError."""
        if self.second:
            return self._second(data)
        if self.faults is Generation.B:
            size = _LENGTH.size
            if len(data) >= size:
                size += _LENGTH.unpack_from(data)[0]
            if size > MOST_FRAME:
                raise _bad(f"a frame of {size} bytes, {MOST_FRAME} are allowed")
            return size
        if self._text is None or len(self._text.data) > len(data):
            self._text = JsonText(MOST_FRAME if self.faults else self._most)
        if self._text.feed(data[len(self._text.data) :]):
            size, self._text = self._text.end, None
            return size
        return len(data) + 1

    def _second(self, data: bytes) -> int:
        """No terminator, and faults may follow at once: so exactly as much as belongs to it."""
        if data[:1] == b"n" or not data:
            return len(_NO_RINGS)
        if len(data) < len(_RINGS):
            return len(_RINGS) + 1
        return len(_RINGS) + len(str(max(self.descriptors // 3, 1)))


def rings(data: bytes) -> int:
    """Of how many vCPUs the second message says that they have rings.  Raises BadMessageError."""
    if data == _NO_RINGS:
        return 0
    number = data.removeprefix(_RINGS)
    if not data.startswith(_RINGS) or not number.isdigit() or not 0 < int(number) <= MOST_VCPUS:
        raise _bad(f"{data[:32]!r} in place of the second message")
    return int(number)


def read(generation: Generation, data: bytes) -> Fault:
    """A whole message.  Raises BadMessageError."""
    if generation is Generation.A:
        try:
            return msgspec.json.decode(data, type=Fault)
        except (msgspec.MsgspecError, RecursionError, ValueError) as error:
            raise _bad(str(error)) from None
    reader = bitcode.Reader(data[_LENGTH.size :])
    fault = Fault(reader.u32(), reader.u64(), reader.u64(), reader.optional_u64())
    reader.end()
    return fault


def reply(generation: Generation, fault: Fault, length: int, *, zero: bool) -> bytes:
    """That `length` bytes are there."""
    if generation is Generation.A:
        return msgspec.json.encode(
            {
                "vcpu": fault.vcpu,
                "offset": fault.offset,
                "len": length,
                "flags": fault.flags,
                "token": fault.token,
                "zero": zero,
            }
        )
    gpa = None if fault.gpa is None else bitcode.u64(fault.gpa)
    body = bitcode.optional(bitcode.u32(fault.vcpu)) + bitcode.u64(fault.offset)
    body += bitcode.u64(length) + bitcode.u64(fault.flags)
    body += bitcode.optional(gpa) + bitcode.boolean(zero)
    return _LENGTH.pack(len(body)) + body


def _bad(cause: str) -> BadMessageError:
    return BadMessageError(
        "the message is none of a VM with guest_memfd",
        cause=cause,
        cure="look of which commit of the branch the VMM is",
    )
