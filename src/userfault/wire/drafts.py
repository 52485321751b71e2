"""Four drafts of a protocol between a VMM and whoever fills its memory, told apart by first bytes.

| first bytes | form | who speaks it |
|---|---|---|
| u32 length, `{` | HANDOFF | Cloud Hypervisor PR 8657 (July 2026) |
| u16 0x000a, u64 length at byte 8 | FRAMES | Cloud Hypervisor PR 8664, Nydus PR 2001 (2026) |
| u32 0x55464644 | MAGIC | Firecracker PR 5840, Nydus branch v3 (June, July 2026) |
| `{` | OBJECT | Nydus PR 1921 (released in 2.4) |
| `[` | ARRAY | the regions of a Firecracker, after which nothing is said |

None of them but the fourth is in a release, and each may change.  All integers are little endian.
Lengths are bounded before anything is taken.
"""

from __future__ import annotations

import enum
import struct
from typing import Annotated

import msgspec

from userfault.wire.errors import BadMessageError
from userfault.wire.json_stream import JsonText
from userfault.wire.regions import Region

MAGIC_WORD = 0x55464644
BLOCK = 4096
_LENGTH = struct.Struct("<I")
_FRAME = struct.Struct("<H6sQ")
_HELLO = struct.Struct("<HBBH")  # FRAMES: version, flags, modes, regions
_FRAME_REGION = struct.Struct("<QQQQiiQ")
_MAGIC_FRAME = struct.Struct("<IHHQI")
_MAGIC_HELLO = struct.Struct("<HBB")  # version, flags, regions
_MAGIC_REGION = struct.Struct("<QQQQii")
_STAT = struct.Struct("<QII")
_RANGE = struct.Struct("<QQ")
_MISSING = "MISSING"
_Number = Annotated[int, msgspec.Meta(ge=0, le=(1 << 63) - 1)]


class Form(enum.Enum):
    """Which draft."""

    HANDOFF = "hand-off"
    FRAMES = "frames"
    MAGIC = "magic"
    OBJECT = "object"
    ARRAY = "array"


class Word(enum.Enum):
    """What a message asks for."""

    HELLO = "handshake"
    ADD = "a region more"
    REMOVE = "a region less"
    STAT = "stat"
    UNKNOWN = "something unknown"


class Message(msgspec.Struct, frozen=True):
    """`managed`: whoever serves fills the memory; else it hands over what is to be mapped.

    `answered`: the client waits for an answer.  `descriptors`: that may come, at most.
    """

    form: Form
    word: Word
    regions: tuple[Region, ...] = ()
    managed: bool = True
    answered: bool = False
    descriptors: int = 1
    pid: int = 0
    detail: str = ""


class _Memory(msgspec.Struct):
    guest_phys_addr: _Number
    host_virt_addr: _Number
    size: _Number


class _Handoff(msgspec.Struct):
    type: str = ""
    protocol: str = ""
    version: int | str = 0
    vmm_pid: int = 0
    mode: str = ""
    regions: list[_Memory] = []
    region: _Memory | None = None


class _Shown(msgspec.Struct):
    base_host_virt_addr: _Number
    size: _Number
    offset: _Number


class _Object(msgspec.Struct):
    type: int = 0
    regions: list[_Shown] = []
    policy: int = 0


def form_of(data: bytes) -> Form | None:
    """None: there must be more.  Raises BadMessageError for what is none of them."""
    if len(data) < 5:
        return None
    if data[3:5] == b"\0{":  # no JSON has a zero, and no flags of frames are `{`
        return Form.HANDOFF
    if _LENGTH.unpack_from(data)[0] == MAGIC_WORD:
        return Form.MAGIC
    found = {b"{": Form.OBJECT, b"[": Form.ARRAY}.get(data[:1])
    found = Form.FRAMES if data[:2] == b"\x0a\0" else found
    if found is None:
        raise _bad(f"it begins with {data[:5].hex(' ')}, as none of the drafts does")
    return found


class Sizes:
    """How long messages are, of one client.  `form`: once it is known; `most`: bytes of one."""

    def __init__(self, most: int, form: Form | None = None) -> None:
        self.form = form
        self._most = most
        self._text: JsonText | None = None

    def __call__(self, data: bytes) -> int:
        """How many bytes there must be (see `Exchange`).  Raises BadMessageError."""
        if self.form is None:
            self.form = form_of(data)
            if self.form is None:
                return len(data) + 1
        size = self._size(data)
        if size > self._most:
            raise _bad(f"it has {size} bytes, {self._most} are allowed")
        return size

    def _size(self, data: bytes) -> int:
        if self.form is Form.HANDOFF:
            return _length(data, _LENGTH, 0)
        if self.form is Form.FRAMES:
            return _length(data, _FRAME, 2)
        if self.form is Form.MAGIC:
            if len(data) >= _LENGTH.size and _LENGTH.unpack_from(data)[0] != MAGIC_WORD:
                raise _bad("a frame without the magic number")
            return _length(data, _MAGIC_FRAME, 4)
        if self._text is None or len(self._text.data) > len(data):
            self._text = JsonText(self._most)
        whole = self._text.feed(data[len(self._text.data) :])
        if whole:
            size, self._text = self._text.end, None
            return size
        return len(data) + 1


def _length(data: bytes, header: struct.Struct, field: int) -> int:
    if len(data) < header.size:
        return header.size
    return header.size + int(header.unpack_from(data)[field])


def read(form: Form, data: bytes) -> Message:
    """A whole message.  Raises BadMessageError."""
    try:
        return _READ[form](data)
    except (msgspec.MsgspecError, struct.error, RecursionError) as error:
        raise _bad(str(error)) from None


def _handoff(data: bytes) -> Message:
    told = msgspec.json.decode(data[_LENGTH.size :], type=_Handoff)
    if told.protocol:
        raise _bad(f"the protocol {told.protocol!r} is a fork's, and not served")
    if told.type == "add_region" and told.region is not None:
        one = Region(told.region.host_virt_addr, told.region.size, 0)
        return Message(Form.HANDOFF, Word.ADD, (one,), answered=True, descriptors=0)
    if told.type != "handoff":
        return Message(Form.HANDOFF, Word.UNKNOWN, detail=told.type, answered=True, descriptors=0)
    if told.version != 0:
        raise _bad(f"version {told.version}; 0 is served")
    if told.mode != _MISSING:
        raise _bad(f"mode {told.mode!r}: {_MISSING} is served, and nothing beside it")
    regions, offset = [], 0
    for each in told.regions:  # by guest-physical address, as a memory file has them
        regions.append(Region(each.host_virt_addr, each.size, offset))
        offset += each.size
    return Message(Form.HANDOFF, Word.HELLO, tuple(regions), answered=True, pid=told.vmm_pid)


def _frames(data: bytes) -> Message:
    command, own, length = _FRAME.unpack_from(data)
    body = data[_FRAME.size :]
    if command == 0x0A:
        version, flags, modes, count = _HELLO.unpack(own)
        if version != 1 or modes != 1:
            raise _bad(f"version {version}, modes {modes}: version 1 with MISSING (1) is served")
        regions = _regions(body, _FRAME_REGION, count)
        managed, answered = bool(flags & 1), bool(flags & 4)
        most = 1 + (count if flags & 8 else 0)
        return Message(Form.FRAMES, Word.HELLO, regions, managed, answered, most)
    if command == 0x0B:
        return Message(Form.FRAMES, Word.ADD, _regions(body, _FRAME_REGION, 1), answered=True)
    if command == 0x0C:
        start, size = _RANGE.unpack(body)
        gone = (Region(start, size, 0),)
        return Message(Form.FRAMES, Word.REMOVE, gone, answered=True, descriptors=0)
    word = Word.STAT if command == 0x20 and not length else Word.UNKNOWN
    return Message(Form.FRAMES, word, answered=True, descriptors=0, detail=f"{command:#x}")


def _magic(data: bytes) -> Message:
    _, _, kind, _, length = _MAGIC_FRAME.unpack_from(data)
    body = data[_MAGIC_FRAME.size :]
    if kind == 0x01:
        version, flags, count = _MAGIC_HELLO.unpack_from(body)
        if version != 1:
            raise _bad(f"version {version}; 1 is served")
        regions = _regions(body[_MAGIC_HELLO.size :], _MAGIC_REGION, count)
        return Message(Form.MAGIC, Word.HELLO, regions, managed=bool(flags & 1))
    word = Word.STAT if kind == 0x02 and not length else Word.UNKNOWN
    asks = word is Word.STAT
    return Message(Form.MAGIC, word, answered=asks, descriptors=0, detail=f"{kind:#x}")


def _object(data: bytes) -> Message:
    told = msgspec.json.decode(data, type=_Object)
    if told.type == 0:
        regions = _shown(told.regions)
        return Message(Form.OBJECT, Word.HELLO, regions, managed=told.policy == 1)
    word = Word.STAT if told.type == 2 else Word.UNKNOWN
    asks = word is Word.STAT
    return Message(Form.OBJECT, word, answered=asks, descriptors=0, detail=f"type {told.type}")


def _array(data: bytes) -> Message:
    return Message(Form.ARRAY, Word.HELLO, _shown(msgspec.json.decode(data, type=list[_Shown])))


def _shown(told: list[_Shown]) -> tuple[Region, ...]:
    return tuple(Region(each.base_host_virt_addr, each.size, each.offset) for each in told)


def _regions(body: bytes, layout: struct.Struct, count: int) -> tuple[Region, ...]:
    if len(body) != layout.size * count:
        raise _bad(f"{count} regions in {len(body)} bytes")
    return tuple(
        Region(start, size, offset) for start, size, offset, *_ in layout.iter_unpack(body)
    )


_READ = {
    Form.HANDOFF: _handoff,
    Form.FRAMES: _frames,
    Form.MAGIC: _magic,
    Form.OBJECT: _object,
    Form.ARRAY: _array,
}


def done(form: Form) -> bytes:
    """That a message was carried out."""
    return {Form.HANDOFF: b"\x01", Form.FRAMES: _FRAME.pack(1, bytes(6), 0)}.get(form, b"")


def not_done(form: Form) -> bytes:
    """That it was not; nothing where a form has no word for it."""
    return _FRAME.pack(2, bytes(6), 0) if form is Form.FRAMES else b""


def stat(form: Form, size: int) -> bytes:
    """How long the source is."""
    told = _STAT.pack(size, BLOCK, 0)
    if form is Form.FRAMES:
        return _FRAME.pack(1, b"\x20\x00" + bytes(4), len(told)) + told
    if form is Form.MAGIC:
        return _MAGIC_FRAME.pack(MAGIC_WORD, 0, 0x82, 0, len(told)) + told
    return msgspec.json.encode(
        {"type": 3, "size": size, "block_size": BLOCK, "flags": 0, "version": 1}
    )


def _bad(cause: str) -> BadMessageError:
    return BadMessageError(
        "the message is not served",
        cause=cause,
        cure="look which program, in which version, connects to this socket; see docs/drafts.md",
    )
