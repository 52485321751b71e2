"""What is said to each of the daemon's sockets: a right session of that protocol, changed."""

from __future__ import annotations

import fcntl
import itertools
import json
import mmap
import os
import random
import signal
import socket
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from serve.fuzzing import vmm
from serve.fuzzing.values import bits, changed, number, pieces
from userfault.kernel.modes import Feature, Mode
from userfault.linux.libc import Pinned, madvise, read_memory
from userfault.linux.libc import mmap as mmap_at
from userfault.linux.uffd import LiveUserfaultfd
from userfault.pager.core.policy import Policy
from userfault.pager.drivers.wire import messages, packets
from userfault.source.spec import FileSpec, FunctionSpec, StoreSpec, ZeroSpec
from userfault.uapi import mman

PAGE = 4096
_COMES_S = 30  # a page that a client may expect, or its end


class World:
    """Where the daemon is, and which image it shows."""

    def __init__(self, folder: str, image: str) -> None:
        self.folder = Path(folder)
        self.image = Path(image)
        self.pages = self.image.stat().st_size // PAGE


def _descriptors(draw: random.Random, right: list[int]) -> list[int]:
    """Mostly those; else some are missing, doubled, in another order, or of another kind."""
    if draw.random() < 0.6:
        return right
    found = list(right)
    for _ in range(draw.randint(1, 3)):
        at = draw.randrange(len(found) + 1)
        way = draw.randrange(5)
        if way == 0:
            del found[at : at + 1]
        elif way == 1:
            found.insert(at, found[at - 1] if found else 0)
        elif way == 2:
            draw.shuffle(found)
        else:
            found[at : at + (way == 3)] = [_odd(draw)]
    return found * draw.choice((1, 1, 1, 1, 20)) if len(found) < 10 else found


def _odd(draw: random.Random) -> int:
    """A descriptor of something else."""
    kinds: list[Callable[[], int]] = [
        lambda: os.open(os.devnull, os.O_RDWR),
        lambda: os.memfd_create("odd"),
        lambda: os.eventfd(0),
        lambda: os.pipe()[0],
        lambda: os.pidfd_open(os.getpid()),
        lambda: socket.socket(socket.AF_UNIX).detach(),
        lambda: LiveUserfaultfd.open().fileno(),
        lambda: os.open("/", os.O_PATH),
        lambda: os.open(os.devnull, os.O_RDONLY),
    ]
    return draw.choice(kinds)()


class Memory:
    """Registered memory of the image's size."""

    def __init__(self, pages: int) -> None:
        self.held = mmap.mmap(-1, pages * PAGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        with Pinned(self.held) as pinned:
            self.address = pinned.address
        self.length = pages * PAGE
        self.uffd = LiveUserfaultfd.open()
        self.uffd.register(self.address, self.length, Mode.MISSING)


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
    fds = _descriptors(draw, [memory.uffd.fileno()])
    with socket.socket(socket.AF_UNIX) as channel:
        channel.connect(str(world.folder / "vm"))
        if not _say(channel, pieces(draw, data), fds) or draw.random() < 0.3:
            return
        if memory.uffd.fileno() in fds[:1] and draw.random() < 0.5:
            _touch(draw, memory, world if is_right and len(fds) == 1 else None)
        if draw.random() < 0.3:
            channel.settimeout(0.05)
            _heard(channel)


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


def _say(channel: socket.socket, parts: list[bytes], fds: list[int]) -> bool:
    """Send them, the descriptors with the first; False where nobody listens any more."""
    try:
        for at, part in enumerate(parts):
            if part:
                socket.send_fds(channel, [part], fds if not at else [])
    except OSError:
        return False
    return bool(parts and parts[0])


def _heard(channel: socket.socket) -> bytes:
    try:
        return channel.recv(1 << 16)
    except OSError:
        return b""


def _touch(draw: random.Random, memory: Memory, world: World | None) -> None:
    _touch_at(draw, memory.address, memory.length, world)


def _touch_at(draw: random.Random, address: int, length: int, world: World | None) -> None:
    """Pages, with the image's bytes where the message was right; SIGALRM ends a wait."""
    signal.alarm(_COMES_S)
    for _ in range(draw.randint(1, 4)):
        at = draw.randrange(0, length, PAGE)
        if draw.random() < 0.2:
            madvise(address + at, PAGE, mman.MADV_DONTNEED)
            world = None  # zeros there, from now on
        found = read_memory(address + at, 64)
        if world is not None:
            with world.image.open("rb") as image:
                image.seek(at)
                assert image.read(64) == found, f"wrong bytes at offset {at:#x}"
    signal.alarm(0)


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
            fds = _descriptors(draw, [_image(world)]) if draw.random() < 0.4 else []
            if not _say(channel, pieces(draw, data), fds[:200]):
                return
            if draw.random() < 0.6:
                _heard(channel)


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
            _heard(channel)  # its greeting
        for serial in range(1, draw.randint(2, 6)):
            try:
                _request(draw, world, memory, channel, serial)
            except OSError:
                return
            if draw.random() < 0.6:
                _heard(channel)


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
    packets.send(channel, serial, data, _descriptors(draw, fds)[:250])


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
            if not _say(channel, pieces(draw, data), fds[:200]):
                return
        uffd.close()  # as a task has it
        if not times:
            _touch_at(draw, AT, length, world)
        elif draw.random() < 0.5:
            _heard(channel)


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
            frames[at] = frames[at][0], _descriptors(draw, [uffd])
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
        _say(channel, [json.dumps(regions).encode()], [memory.uffd.fileno()])
        _touch(draw, memory, world)
    with socket.socket(socket.AF_UNIX) as channel:
        channel.connect(str(world.folder / "control"))
        _say(channel, [json.dumps(_ORDERS[0]).encode() + b"\n"], [])
        answered = json.loads(_heard(channel))["ok"]
    memory = Memory(world.pages)
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as channel:
        channel.connect(str(world.folder / "native"))
        _heard(channel)
        while not isinstance((made := _attach(draw, world, memory))[0].source, FileSpec):
            pass
        packets.send(channel, 1, msgspec.msgpack.encode(made[0]), made[1])
        reply = messages.receive_reply(channel, 1)
        assert isinstance(reply, messages.Done), reply
        _touch(draw, memory, world)
    criu(_Never(), world)
    came = vmm.play(_Never(), str(world.folder), world.image.read_bytes(), wild=0.0)
    return {  # pages: else it would have waited, or been ended
        "criu": "page",
        "firecracker": "page",
        "cloud-hypervisor": "page" if came else "none",
        "control": str(answered),
        "native": type(reply).__name__,
    }
