"""Sessions of the drafts: a greeting of one of them and some messages after it, changed."""

from __future__ import annotations

import json
import os
import random
import socket
import struct
from collections.abc import Callable
from typing import Any

from serve import draft_scenes
from serve.draft_scenes import text
from serve.fuzzing.sessions import World, descriptors, heard, say, touch_at
from serve.fuzzing.values import bits, changed, number, pieces
from serve.hostile_scenes import PAGE, PAGES, Memory

FORMS = tuple(draft_scenes.HELLO)
_TEXTS = {"handoff": 4, "nydus": 0, "array": 0}  # bytes before the JSON


def talk(draw: random.Random, world: World) -> None:
    """Who has handed over its userfaultfd gets its page, or its end."""
    form = draw.choice(FORMS)
    memory = Memory()
    times = draw.choice((0, 1, 1, 2, 4))
    hello = _changed(draw, form, draft_scenes.HELLO[form](memory), times)
    fds = descriptors(draw, [memory.uffd.fileno()])
    with socket.socket(socket.AF_UNIX) as channel:
        channel.settimeout(0.05)
        channel.connect(str(world.folder / "drafts"))
        if not say(channel, pieces(draw, hello), fds[:200]) or draw.random() < 0.2:
            return
        is_right = not times and fds == [memory.uffd.fileno()]
        later = _later(draw, form, memory)
        for data in later:
            sent = descriptors(draw, []) if draw.random() < 0.2 else []
            if not say(channel, pieces(draw, data), sent[:200]):
                return
            if draw.random() < 0.5:
                heard(channel)
        if memory.uffd.fileno() in fds[:1] and draw.random() < 0.6:
            touch_at(draw, memory.address, PAGES * PAGE, world if is_right and not later else None)


def right(form: str, world: World) -> None:
    """A session in which nothing is changed."""
    memory = Memory()
    with socket.socket(socket.AF_UNIX) as channel:
        channel.connect(str(world.folder / "drafts"))
        say(channel, [draft_scenes.HELLO[form](memory)], [memory.uffd.fileno()])
        touch_at(random.Random(0), memory.address, PAGES * PAGE, world)


def _changed(draw: random.Random, form: str, data: bytes, times: int) -> bytes:
    """So many changes: of a value of the text, of a field of the frame, of some bits."""
    for _ in range(times):
        if draw.random() < 0.2:
            data = bits(draw, data)
        elif form in _TEXTS:
            data = _another_text(draw, data, _TEXTS[form])
        else:
            data = _another_field(draw, data)
    return data


def _another_text(draw: random.Random, data: bytes, before: int) -> bytes:
    try:
        value: Any = json.loads(data[before:])
    except ValueError:  # changed before
        return bits(draw, data)
    text = json.dumps(changed(draw, value, 1)).encode()
    if not before:
        return text
    length = len(text) if draw.random() < 0.9 else number(draw, len(text)) & 0xFFFFFFFF
    return struct.pack("<I", length) + text


def _another_field(draw: random.Random, data: bytes) -> bytes:
    layout = draw.choice(("<H", "<I", "<Q"))
    size = struct.calcsize(layout)
    if len(data) < size:
        return draw.randbytes(size)
    at = draw.randrange(0, len(data) - size + 1, 2)
    (value,) = struct.unpack_from(layout, data, at)
    another = number(draw, value) & ((1 << 8 * size) - 1)
    return data[:at] + struct.pack(layout, another) + data[at + size :]


def _later(draw: random.Random, form: str, memory: Memory) -> list[bytes]:
    """Messages after the greeting; most are right."""
    kinds = _MESSAGES[form]
    found = [draw.choice(kinds)(memory) for _ in range(draw.choice((0, 0, 1, 2, 5)))]
    return [_changed(draw, form, data, draw.choice((0, 0, 1, 2))) for data in found]


def _frame(command: int, body: bytes = b"") -> bytes:
    return struct.pack("<H6xQ", command, len(body)) + body


def _magic(kind: int, body: bytes = b"") -> bytes:
    return struct.pack("<IHHQI", 0x55464644, 0, kind, 0, len(body)) + body


def _half(memory: Memory) -> tuple[int, int]:
    """Address and bytes of the second one."""
    return memory.address + draft_scenes.HALF, draft_scenes.HALF


def _added(memory: Memory) -> bytes:
    address, size = _half(memory)
    region = {"guest_phys_addr": 1 << 32, "host_virt_addr": address, "size": size}
    return text({"type": "add_region", "region": region})


def _added_frame(memory: Memory) -> bytes:
    address, size = _half(memory)
    return _frame(0x0B, struct.pack("<QQQQiiQ", address, size, size, PAGE, 3, 2, 0))


_Made = Callable[[Memory], bytes]
_MESSAGES: dict[str, tuple[_Made, ...]] = {
    "handoff": (
        _added,
        draft_scenes.handoff,
        lambda _: text({"type": "whatever", "vmm_pid": os.getpid()}),
    ),
    "frames": (
        lambda memory: _frame(0x0C, struct.pack("<QQ", *_half(memory))),
        _added_frame,
        lambda _: _frame(0x20),
        lambda _: _frame(0x77, b"xyz"),
        draft_scenes.frames,
    ),
    "magic": (lambda _: _magic(2), lambda _: _magic(9, b"xyz"), draft_scenes.magic),
    "nydus": (lambda _: b'{"type": 2}', lambda _: b'{"type": 9}', draft_scenes.nydus),
    "array": (draft_scenes.array, lambda _: b"{}"),
}
