"""Firecracker's page-fault handshake: one JSON text, one userfaultfd, and silence ever after.

An array with an object for each region of guest memory.  The page size has had two names: releases
up to 1.6 have none (all pages are 4 KiB), 1.7 to 1.11 `page_size_kib`, since 1.12 `page_size`
beside it.  Both are written in bytes, whatever the older one's name says; documents of the API say
KiB, so that a number that can only be KiB is taken for it.  (Firecracker's
src/vmm/src/persist.rs, `GuestRegionUffdMapping`; a fork wraps the array in an object `mappings`.)
"""

from __future__ import annotations

from typing import Annotated

import msgspec

from userfault.kernel.memtypes import BASE_PAGE, KIB
from userfault.wire.errors import BadMessageError
from userfault.wire.json_stream import JsonText
from userfault.wire.regions import PAGE_SIZES, Geometry, Region, checked

_Number = Annotated[int, msgspec.Meta(ge=0, le=(1 << 63) - 1)]


class _Mapping(msgspec.Struct):
    """As it is written; what we do not know is passed over."""

    base_host_virt_addr: _Number
    size: _Number
    offset: _Number
    page_size: _Number | None = None
    page_size_kib: _Number | None = None
    gpa_start: _Number | None = None


class _Wrapped(msgspec.Struct):
    mappings: list[_Mapping]


_decoder = msgspec.json.Decoder(list[_Mapping] | _Wrapped)


class Handshake:
    """What comes on the socket.  `regions`: allowed in one message, `most`: bytes of it."""

    def __init__(self, *, regions: int, most: int) -> None:
        self._regions = regions
        self._text = JsonText(most)

    def feed(self, piece: bytes) -> Geometry | None:
        """More bytes: the regions, once the message is whole.  Raises BadMessageError."""
        if not self._text.feed(piece):
            return None
        data, end = self._text.data, self._text.end
        if data[end:].strip():
            raise BadMessageError(
                "there is more than one message",
                cause=f"{len(data) - end} bytes follow the regions",
                cure="a client says nothing more after its regions",
            )
        return _geometry(bytes(data[:end]), self._regions)

    @property
    def began(self) -> bool:
        """Whether anything has come."""
        return bool(self._text.data)


def _geometry(text: bytes, most: int) -> Geometry:
    try:
        found = _decoder.decode(text)
    except (msgspec.MsgspecError, RecursionError, ValueError) as error:
        raise BadMessageError(
            "the message is not the regions of a Firecracker snapshot",
            cause=str(error),
            cure="look which program, in which version, connects to this socket",
        ) from None
    mappings = found if isinstance(found, list) else found.mappings
    sizes = {_page_size(each) for each in mappings}
    if len(sizes) > 1:
        raise BadMessageError(
            "the regions cannot be served",
            cause=f"their page sizes differ: {', '.join(map(str, sorted(sizes)))} bytes",
            cure="all memory of one snapshot has pages of one size",
        )
    regions = [Region(each.base_host_virt_addr, each.size, each.offset) for each in mappings]
    return checked(regions, sizes.pop() if sizes else BASE_PAGE, most)


def _page_size(mapping: _Mapping) -> int:
    older = mapping.page_size_kib
    if older is not None and older not in PAGE_SIZES and older * KIB in PAGE_SIZES:
        older *= KIB
    if mapping.page_size is None:
        return BASE_PAGE if older is None else older
    if older not in (None, mapping.page_size):
        raise BadMessageError(
            "the regions cannot be served",
            cause=f"page_size is {mapping.page_size}, and page_size_kib {mapping.page_size_kib}",
            cure="both name one size, in bytes",
        )
    return mapping.page_size
