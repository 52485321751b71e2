"""What is said to each of the daemon's sockets: a right session of that protocol, changed."""

from __future__ import annotations

import fcntl
import itertools
import json
import os
import random
import socket
import struct
from collections.abc import Callable
from typing import Any

import msgspec

from serve.fuzzing import drafts, vmm
from serve.fuzzing.sessions import PAGE, Memory, World, descriptors, heard, say, touch, touch_at
from serve.fuzzing.values import bits, changed, number, pieces
from userfault.kernel.modes import Feature, Mode
from userfault.linux.libc import mmap as mmap_at
from userfault.linux.uffd import LiveUserfaultfd
from userfault.pager.core.policy import Policy
from userfault.pager.drivers.wire import messages, packets
from userfault.source.spec import FileSpec, FunctionSpec, StoreSpec, ZeroSpec
from userfault.uapi import mman

# --- Firecracker ---------------------------------------------------------------------------------


def firecracker(draw: random.Random, world: World) -> None:
    """The one message, and perhaps touches: who has handed over its userfaultfd gets its page, or
    its end."""
    memory = Memory(world.pages)
    value, is_right = _regions(draw, memory)
    data = json.dumps(value, ensure_ascii=draw.random() < 0.5).encode()
    if draw.random() < 0.2:
        data, is_right = bits(draw, data), False
    data += draw.choice((b"", b"", b"", b"\n", b" ", b"[]"))
    fds = descriptors(draw, [memory.uffd.fileno()])
    with socket.socket(socket.AF_UNIX) as channel:
        channel.connect(str(world.folder / "vm"))
        if not say(channel, pieces(draw, data), fds) or draw.random() < 0.3:
            return
        if memory.uffd.fileno() in fds[:1] and draw.random() < 0.5:
            touch(draw, memory, world if is_right and len(fds) == 1 else None)
        if draw.random() < 0.3:
            channel.settimeout(0.05)
            heard(channel)


def _regions(draw: random.Random, memory: Memory) -> tuple[Any, bool]:
    """The regions, in some of the known forms; and whether they are right."""
    cuts = sorted({0, memory.length, *(draw.randrange(0, memory.length, PAGE) for _ in range(
        draw.choice((0, 0, 2))))})  # fmt: skip
    regions = [
        {"base_host_virt_addr": memory.address + low, "size": high - low, "offset": low}
        for low, high in itertools.pairwise(cuts)
    ]
    names = draw.choice(((), ("page_size_kib",), ("page_size", "page_size_kib")))
    for region in regions:
        region.update(dict.fromkeys(names, PAGE))
    times = draw.choice((0, 1, 1, 2, 4))
    value: Any = changed(draw, regions, times)
    return ({"mappings": value} if draw.random() < 0.1 else value), not times


# --- the control socket --------------------------------------------------------------------------

_ORDERS: list[dict[str, Any]] = [
    {"version": 1, "command": "sessions", "arguments": {}},
    {"version": 1, "command": "status"},
    {"version": 1, "command": "metrics", "arguments": {}},
    {"version": 1, "command": "detach", "arguments": {"name": "y"}},
    {"version": 1, "command": "attach", "arguments": {"name": "x", "pid": 1}},
    {
        "version": 1,
        "command": "attach",
        "arguments": {
            "name": "z",
            "pid": None,
            "spec": {
                "type": "file",
                "length": PAGE,
                "offset": 0,
                "size": PAGE,
                "mtime_ns": 0,
                "name": "z",
            },
        },
    },
    {"version": 1, "command": "drain", "arguments": {"fill": 7}},
]


def control(draw: random.Random, world: World) -> None:
    """Lines of JSON; some are read to their answer."""
    with socket.socket(socket.AF_UNIX) as channel:
        channel.settimeout(0.05)
        channel.connect(str(world.folder / "control"))
        for _ in range(draw.randint(1, 5)):
            order = changed(draw, draw.choice(_ORDERS), draw.choice((0, 1, 2, 3)))
            if isinstance(order, dict) and order.get("command") in ("drain", "replace"):
                order["arguments"] = {"fill": 7}  # what is right would end it
            data = json.dumps(order).encode() + draw.choice((b"\n", b"\n", b"\r\n", b"", b"\n\n"))
            if draw.random() < 0.2:
                data = bits(draw, data)
                data = data.replace(b"drain", b"drown")
            fds = descriptors(draw, [_image(world)]) if draw.random() < 0.4 else []
            if not say(channel, pieces(draw, data), fds[:200]):
                return
            if draw.random() < 0.6:
                heard(channel)


def _image(world: World) -> int:
    return os.open(world.image, os.O_RDONLY)


# --- our own client's ----------------------------------------------------------------------------


def native(draw: random.Random, world: World) -> None:
    """Requests of the pager's protocol, of which the first one is mostly an Attach."""
    memory = Memory(world.pages)
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as channel:
        channel.settimeout(0.05)
        channel.connect(str(world.folder / "native"))
        if draw.random() < 0.8:
            heard(channel)  # its greeting
        for serial in range(1, draw.randint(2, 6)):
            try:
                _request(draw, world, memory, channel, serial)
            except OSError:
                return
            if draw.random() < 0.6:
                heard(channel)


def _request(
    draw: random.Random, world: World, memory: Memory, channel: socket.socket, serial: int
) -> None:
    message: messages.Request
    fds: list[int]
    if serial == 1 and draw.random() < 0.8:
        message, fds = _attach(draw, world, memory)
    else:
        message, fds = _other(draw), []
    value = changed(draw, msgspec.to_builtins(message), draw.choice((0, 0, 1, 2)))
    data = msgspec.msgpack.encode(_packable(value))
    if draw.random() < 0.1:
        data = bits(draw, data)
    if draw.random() < 0.05:
        channel.send(draw.randbytes(draw.choice((0, 3, 16, 17, 40))))
        return
    serial = serial if draw.random() < 0.9 else abs(number(draw, serial)) & ((1 << 64) - 1)
    packets.send(channel, serial, data, descriptors(draw, fds)[:250])


def _packable(value: Any) -> Any:
    """Integers that msgpack cannot hold, cut."""
    if isinstance(value, dict):
        return {key: _packable(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_packable(each) for each in value]
    if isinstance(value, int) and not isinstance(value, bool):
        return max(min(value, (1 << 64) - 1), -(1 << 63))
    return value


def _attach(draw: random.Random, world: World, memory: Memory) -> tuple[messages.Attach, list[int]]:
    source = draw.choice(
        (
            FileSpec(memory.length, 0, memory.length, _time(world), "image"),
            FileSpec(memory.length, 0, memory.length, _time(world), "image"),
            ZeroSpec(memory.length),
            FunctionSpec(memory.length, "os:abort", b"", ()),
            StoreSpec(memory.length, b"/nowhere", "x", b""),
        )
    )
    has_source = isinstance(source, FileSpec)
    message = messages.Attach(
        number=draw.choice((1, 1, 2)),
        start=memory.address,
        pages=world.pages,
        page_size=PAGE,
        shared=False,
        zeropage=True,
        exists_is_ambiguous=False,
        has_poison=True,
        prepared=False,
        has_source=has_source,
        has_memory=False,
        source=source,
        policy=Policy(background=draw.random() < 0.5),
    )
    states = os.memfd_create("states", os.MFD_ALLOW_SEALING)
    os.ftruncate(states, world.pages)
    if draw.random() < 0.9:
        fcntl.fcntl(states, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW)
    line = os.pipe()
    fds = [memory.uffd.fileno(), states, os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC), *line]
    return message, fds + ([_image(world)] if has_source else [])


def _time(world: World) -> int:
    return world.image.stat().st_mtime_ns


def _other(draw: random.Random) -> messages.Request:
    which = draw.choice((0, 1, 1, 1, 2))
    return draw.choice(
        (
            messages.Detach(which),
            messages.Prefetch(which, number(draw, 5), number(draw, 5)),
            messages.Complete(which),
            messages.GiveUp(which, "because"),
            messages.Ask(which),
            messages.Replace(),
            messages.Admit(which, "x"),
            messages.Quit(),
            messages.Load(which, FunctionSpec(PAGE, "os:abort", b"", ()), PAGE),
        )
    )


# --- CRIU ----------------------------------------------------------------------------------------

TASK, ENDED, AT = 7, 9, 0x600000000000  # of the images that the daemon shows
_EVENTS = Feature.EVENT_FORK | Feature.EVENT_REMAP | Feature.EVENT_REMOVE | Feature.EVENT_UNMAP
Frame = tuple[bytes, list[int]]


def criu(draw: random.Random, world: World) -> None:
    """A task, one that had ended, and the last word; where nothing is changed, touches."""
    length = world.pages * PAGE
    flags = mman.MAP_PRIVATE | mman.MAP_ANONYMOUS | mman.MAP_FIXED_NOREPLACE
    mmap_at(AT, length, mman.PROT_READ | mman.PROT_WRITE, flags, -1, 0)
    uffd = LiveUserfaultfd.open(_EVENTS)
    uffd.register(AT, length, Mode.MISSING)
    times = draw.choice((0, 1, 1, 2, 4))
    frames = _frames(draw, uffd.fileno(), times)
    with socket.socket(socket.AF_UNIX) as channel:
        channel.settimeout(0.05)
        channel.connect(str(world.folder / "criu" / "lazy-pages.socket"))
        for data, fds in frames:
            if not say(channel, pieces(draw, data), fds[:200]):
                return
        uffd.close()  # as a task has it
        if not times:
            touch_at(draw, AT, length, world)
        elif draw.random() < 0.5:
            heard(channel)


def _frames(draw: random.Random, uffd: int, times: int) -> list[Frame]:
    frames: list[Frame] = [
        (struct.pack("=i", TASK), []),
        (b"\0", [uffd]),
        (struct.pack("=i", -ENDED), []),
        (struct.pack("=I", 0x52535446), []),
    ]
    for _ in range(times):
        at = draw.randrange(len(frames))
        way = draw.randrange(6)
        if way == 0 and len(frames) > 1:
            del frames[at]
        elif way == 1:
            frames.insert(at, draw.choice(frames))
        elif way == 2:
            draw.shuffle(frames)
        elif way == 3:
            frames[at] = frames[at][0], descriptors(draw, [uffd])
        elif way == 4:
            number_ = draw.choice((0, 1, ENDED, -TASK, -1, -(1 << 31), (1 << 31) - 1))
            frames[at] = struct.pack("=i", number_), frames[at][1]
        else:
            frames[at] = draw.randbytes(draw.randint(1, 9)), frames[at][1]
    return frames


def cloud_hypervisor(draw: random.Random, world: World) -> None:
    """A VMM that is restored."""
    vmm.play(draw, str(world.folder), world.image.read_bytes())


TONGUES: dict[str, Callable[[random.Random, World], None]] = {
    "firecracker": firecracker,
    "control": control,
    "native": native,
    "criu": criu,
    "drafts": drafts.talk,
    "cloud-hypervisor": cloud_hypervisor,
}


class _Never(random.Random):
    """Chance that always takes the first."""

    def choice(self, seq: Any) -> Any:
        return seq[0]


def unchanged(folder: str, image: str) -> dict[str, str]:
    """What becomes of a session of each protocol in which nothing is changed."""
    world, draw = World(folder, image), random.Random(0)
    memory = Memory(world.pages)
    regions = [{"base_host_virt_addr": memory.address, "size": memory.length, "offset": 0}]
    with socket.socket(socket.AF_UNIX) as channel:
        channel.connect(str(world.folder / "vm"))
        say(channel, [json.dumps(regions).encode()], [memory.uffd.fileno()])
        touch(draw, memory, world)
    with socket.socket(socket.AF_UNIX) as channel:
        channel.connect(str(world.folder / "control"))
        say(channel, [json.dumps(_ORDERS[0]).encode() + b"\n"], [])
        answered = json.loads(heard(channel))["ok"]
    memory = Memory(world.pages)
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as channel:
        channel.connect(str(world.folder / "native"))
        heard(channel)
        while not isinstance((made := _attach(draw, world, memory))[0].source, FileSpec):
            pass
        packets.send(channel, 1, msgspec.msgpack.encode(made[0]), made[1])
        reply = messages.receive_reply(channel, 1)
        assert isinstance(reply, messages.Done), reply
        touch(draw, memory, world)
    criu(_Never(), world)
    for form in drafts.FORMS:
        drafts.right(form, world)
    came = vmm.play(_Never(), str(world.folder), world.image.read_bytes(), wild=0.0)
    return {  # pages: else it would have waited, or been ended
        "criu": "page",
        "drafts": "page",
        "firecracker": "page",
        "cloud-hypervisor": "page" if came else "none",
        "control": str(answered),
        "native": type(reply).__name__,
    }
