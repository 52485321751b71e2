"""Firecracker, as it restores a snapshot by page faults.

From its documents (docs/snapshotting/handling-page-faults-on-snapshot-resume.md): it maps guest
memory, registers it as MISSING, connects, and sends once: a JSON array of its regions, and the
userfaultfd.  Nothing more is ever sent, in either direction.  What the balloon takes is given back
with MADV_DONTNEED, and has to read as zeros.

What releases differ in: up to 1.6 without a page size, 1.7 to 1.11 with `page_size_kib` (in bytes,
whatever its name says), since 1.12 with `page_size` beside it.  Up to 1.11 the socket is closed
right after sending, and without a balloon no remove events are asked for.
"""

from __future__ import annotations

import json
import os
import resource
from typing import Any

import msgspec

from userfault.client import talking
from userfault.client.board import Board
from userfault.client.expected import Expected
from userfault.client.memory import Image, Region, checked, mapped_regions, sizes
from userfault.client.results import Said
from userfault.client.touching import Walk, Walker
from userfault.kernel.errors import Unavailable
from userfault.kernel.modes import Feature, Mode
from userfault.linux import libc
from userfault.linux.uffd import LiveUserfaultfd
from userfault.uapi import mman

FORMS = ("newest", "v1.7", "oldest")


class Firecracker(msgspec.Struct, frozen=True):
    """What is posed.  `regions`: sizes in bytes, or one number: so many, no two alike."""

    socket: str
    image: str
    walk: Walk = Walk()
    page_size: int = 4096
    regions: tuple[int, ...] = (1,)
    form: str = "newest"
    piece: int = 0  # send so many bytes at once
    transparent: bool = False  # advised for huge pages, 4096 in the message
    hotplug: int = 0  # bytes at the end that nobody may touch before all else was


class Guest:
    """Its memory, registered; nothing is sent yet."""

    def __init__(self, asked: Firecracker) -> None:
        self.image = Image(asked.image, asked.page_size)
        total, page = self.image.length, asked.page_size
        wanted = (
            checked(list(asked.regions), total, page)
            if len(asked.regions) > 1
            else sizes(total, page, asked.regions[0])
        )
        self.regions = mapped_regions(wanted, page, advise_huge=asked.transparent)
        removes = asked.form == "newest" or bool(asked.walk.balloon or asked.walk.flood)
        features = Feature.EVENT_REMOVE if removes else Feature(0)
        self.uffd = LiveUserfaultfd.open(features)
        if self.uffd.user_mode_only and asked.walk.kernel:
            raise Unavailable(
                "touches by system calls",
                cause="this user gets a userfaultfd of user mode only, as Firecracker would not",
                cure="userfault doctor --for firecracker",
            )
        for region in self.regions:
            self.uffd.register(region.address, region.size, Mode.MISSING)

    def message(self, asked: Firecracker) -> bytes:
        """The regions in the form of that release, in the order of their addresses in the guest."""
        return json.dumps(
            [described(region, asked) for region in self.regions], separators=(",", ":")
        ).encode()


def described(region: Region, asked: Firecracker) -> dict[str, Any]:
    """One of them."""
    found = {
        "base_host_virt_addr": region.address,
        "size": region.size,
        "offset": region.offset,
    }
    if asked.form == "newest":
        found["page_size"] = asked.page_size
    if asked.form != "oldest":
        found["page_size_kib"] = asked.page_size
    return found


def run(asked: Firecracker, board: Board) -> None:
    """Restore, touch, and tell."""
    guest = Guest(asked)
    last, opened = _hotplug(asked, guest)
    expected = Expected(guest.image, guest.regions, asked.page_size)
    walker = Walker(asked.walk, expected, guest.image, board, last=last, before_check=opened)
    channel = talking.connect(asked.socket, board)
    talking.send(channel, guest.message(asked), [guest.uffd.fileno()], board, asked.piece)
    if asked.form != "newest":
        channel.close()
    else:
        talking.watch(channel)
    talking.say(Said(stage="sent", steps=walker.steps))
    result = walker.run()
    if asked.form == "newest":
        answer, result.closed = talking.heard(channel)
        result.answered = answer.hex()
    talking.say(Said(stage="ended", result=result))


def _hotplug(asked: Firecracker, guest: Guest) -> tuple[int, Any]:
    """Memory that is not plugged in yet: registered and told of, but without access rights."""
    if not asked.hotplug:
        return 0, None
    region = guest.regions[-1]
    size = min(asked.hotplug // asked.page_size * asked.page_size, region.size)
    start = region.address + region.size - size
    libc.mprotect(start, size, mman.PROT_NONE)
    return size // asked.page_size, lambda: libc.mprotect(
        start, size, mman.PROT_READ | mman.PROT_WRITE
    )


def main() -> None:
    """The process."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # SIGBUS is a finding, not a crash
    asked, board = talking.told(Firecracker)
    with talking.telling():
        run(asked, board)
    os._exit(0)  # nothing is given back one by one: that would need the handler


if __name__ == "__main__":
    main()
