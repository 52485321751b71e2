"""A VMM with a guest_memfd, as far as a kernel without its patches can play one.

A memfd stands for the guest_memfd: it can be written to, mapped, punched and registered.  What it
has not is EEXIST for a page that is there.  A vCPU is whoever looks at the bitmap before it reads
the memory by another mapping, and asks where the bit is set, as KVM would have it exit.
"""

from __future__ import annotations

import json
import mmap
import os
import random
import socket
import struct
import time
from pathlib import Path
from typing import Any

from userfault.kernel.modes import Feature, Mode
from userfault.linux.libc import Pinned, fallocate
from userfault.linux.uffd import LiveUserfaultfd
from userfault.uapi.mman import FALLOC_FL_KEEP_SIZE, FALLOC_FL_PUNCH_HOLE

PAGE, PAGES = 4096, 512
HALF = PAGES // 2 * PAGE
HIGH = 4 << 30  # guest-physical address of the second half


class Vmm:
    """With its memory, and both its connections."""

    def __init__(self, path: str, generation: str, second: bytes = b"no_exitless_apf") -> None:
        self.generation = generation
        self.guest = os.memfd_create("guest")
        os.ftruncate(self.guest, PAGES * PAGE)
        self.bitmap = os.memfd_create("bitmap")
        os.write(self.bitmap, b"\xff" * (PAGES // 8))
        self.bits = mmap.mmap(self.bitmap, PAGES // 8)
        self.vcpu = mmap.mmap(self.guest, PAGES * PAGE)  # what the guest sees
        self.vmm = mmap.mmap(self.guest, PAGES * PAGE)
        with Pinned(self.vmm) as pinned:
            self.address = pinned.address
        self.uffd = LiveUserfaultfd.open(Feature.MINOR_SHMEM | Feature.EVENT_REMOVE)
        self.uffd.register(self.address, PAGES * PAGE, Mode.MISSING | Mode.MINOR)
        self.apf = _connected(f"{os.path.dirname(path)}/apf.socket")
        self.main = _connected(path)
        fds = [self.uffd.fileno(), self.guest, self.bitmap]
        socket.send_fds(self.main, [json.dumps(self._regions()).encode()], fds)
        if generation == "B":
            self.main.sendall(second)

    def _regions(self) -> list[dict[str, Any]]:
        regions = []
        for number, gpa in ((0, 0), (1, HIGH)):
            offset = number * HALF
            one: dict[str, Any] = {
                "base_host_virt_addr": self.address + offset,
                "size": HALF,
                "offset": offset,
            }
            if self.generation == "B":
                one |= {"gpa_start": gpa, "is_guest_memfd": True}
            regions.append({**one, "page_size": PAGE, "page_size_kib": PAGE})
        return regions

    def ask(self, page: int, vcpu: int = 0) -> None:
        """A vCPU's fault."""
        channel = self.apf if self.generation == "B" and vcpu % 2 else self.main
        channel.sendall(self.request(page, vcpu))
        self.answered(channel, page, vcpu)

    def request(self, page: int, vcpu: int) -> bytes:
        offset = page * PAGE
        if self.generation == "A":
            asked = {"vcpu": vcpu, "offset": offset, "flags": 16, "token": None}
            return json.dumps(asked).encode()
        gpa = offset if offset < HALF else offset - HALF + HIGH
        body = struct.pack("<BBBBBBBBQ", 4, vcpu, 6, 0, 6, 16, 1, 0, gpa)
        return struct.pack("<I", len(body)) + body

    def answered(self, channel: socket.socket, page: int, vcpu: int) -> None:
        """The reply, and what it says is so."""
        if self.generation == "A":
            told = b""
            while not told.endswith(b"}"):
                told += channel.recv(1)
            reply = json.loads(told)
            assert (reply["vcpu"], reply["offset"], reply["len"]) == (vcpu, page * PAGE, PAGE)
        else:
            (size,) = struct.unpack("<I", _exactly(channel, 4))
            assert _exactly(channel, size)[:9] == bytes([1, 4, vcpu, 6, 0, 4, 0, 16, 6]), "a reply"
        assert not self.missing(page), "its bit is cleared before the reply"

    def missing(self, page: int) -> bool:
        return bool(self.bits[page // 8] >> page % 8 & 1)

    def guest_reads(self, page: int, vcpu: int = 0) -> bytes:
        """As a vCPU does."""
        if self.missing(page):
            self.ask(page, vcpu)
        return self.vcpu[page * PAGE : (page + 1) * PAGE]

    def vmm_reads(self, page: int) -> bytes:
        """By the registered mapping."""
        return self.vmm[page * PAGE : (page + 1) * PAGE]

    def punch(self, page: int) -> None:
        """As a balloon has it: the hole, then the bit again."""
        mode = FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE
        fallocate(self.guest, mode, page * PAGE, PAGE)
        self.bits[page // 8] |= 1 << page % 8


def _connected(path: str) -> socket.socket:
    channel = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    channel.settimeout(60)
    channel.connect(path)
    return channel


def _exactly(channel: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        more = channel.recv(size - len(data))
        assert more, "hung up"
        data += more
    return data


def _wait_for(go: str) -> None:
    Path(f"{go}.there").touch()
    deadline = time.monotonic() + 60
    while not os.path.exists(go):
        assert time.monotonic() < deadline, "nobody lets it go on"
        time.sleep(0.01)


def everything(path: str, image: str, generation: str) -> list[int]:
    """Read all pages, by vCPUs and by the VMM; write, punch holes, read again: pages wrong."""
    one = Vmm(path, generation)
    right = Path(image).read_bytes()
    due = [right[at : at + PAGE] for at in range(0, len(right), PAGE)]
    luck = random.Random(7)
    wrong = []
    for page in luck.choices(range(PAGES), k=4 * PAGES):
        read = one.guest_reads(page, page % 4) if luck.random() < 0.6 else one.vmm_reads(page)
        if read != due[page]:
            wrong.append(page)
        chance = luck.random()
        if chance < 0.2:
            one.punch(page)
            due[page] = bytes(PAGE)
        elif chance < 0.5 and not one.missing(page):
            due[page] = bytes([page % 251]) * PAGE
            one.vcpu[page * PAGE : (page + 1) * PAGE] = due[page]
    return wrong


def through_a_kill(path: str, image: str, generation: str, go: str) -> list[int]:
    """A fault is under way when everybody of the daemon's is killed in turn."""
    one = Vmm(path, generation)
    right = Path(image).read_bytes()
    wrong = [page for page in range(64) if one.guest_reads(page) != right[page * PAGE :][:PAGE]]
    one.punch(5)
    one.main.sendall(one.request(100, 0))
    _wait_for(go)
    one.answered(one.main, 100, 0)
    wrong += [5] if one.guest_reads(5) != bytes(PAGE) else []
    for page in range(PAGES):
        due = bytes(PAGE) if page == 5 else right[page * PAGE :][:PAGE]
        if (one.guest_reads(page) if page % 2 else one.vmm_reads(page)) != due:
            wrong.append(page)
    return wrong


def asks_for_nonsense(path: str, generation: str, data: str) -> str:
    """After a right handshake."""
    one = Vmm(path, generation)
    one.main.sendall(bytes.fromhex(data))
    return "answered" if one.main.recv(1) else "closed"


def has_rings(path: str) -> str:
    """It shares rings with its kernel."""
    one = Vmm(path, "B", b"")
    socket.send_fds(one.main, [b"exitless_apf:1"], [one.guest] * 3)
    return "answered" if one.main.recv(1) else "closed"
