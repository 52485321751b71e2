"""Cloud Hypervisor's sessions: a VMM that is restored, and answers and asks as it likes."""

from __future__ import annotations

import contextlib
import os
import random
import socket
import struct
import threading

from serve.fuzzing.values import bits, number, pieces
from serve.vmm_snapshots import SLOTS
from userfault.api.cloud_hypervisor import restore
from userfault.kernel.errors import UserfaultError
from userfault.linux import pidfd
from userfault.serve.talking import Line

PAGE = 4096
_REQUEST = struct.Struct("<H6xQ")
_STATE, _COMPLETE, _ABANDON, _MEMORY_FD, _PAUSED, _FAULT = 3, 5, 6, 7, 8, 9


class Vmm:
    """Listens, takes what it is told, and asks for pages.  `wild`: how often it goes wrong."""

    def __init__(self, draw: random.Random, at: str, wild: float) -> None:
        self._draw = draw
        self._wild = wild
        self._memfds: dict[int, int] = {}
        self.right = 0  # pages that came as they are in the image
        self._listening = socket.socket(socket.AF_UNIX)
        self._listening.bind(at)
        self._listening.listen()
        self._listening.settimeout(2)

    def run(self, content: bytes) -> None:
        """Until somebody has had enough."""
        with self._listening, contextlib.suppress(OSError, struct.error):
            main = self._listening.accept()[0]
            main.settimeout(2)
            with main, contextlib.ExitStack() as held:
                faults = held.enter_context(socket.socket())
                while True:
                    command, length = _REQUEST.unpack(_whole(main, _REQUEST.size))
                    if command == _MEMORY_FD:
                        came = pidfd.receive(main, 4, 4)
                        self._memfds[int.from_bytes(came.data, "little")] = came.fds[0]
                    else:
                        _whole(main, length)
                    if command == _STATE:
                        faults = held.enter_context(self._listening.accept()[0])
                        faults.settimeout(1)
                        _whole(faults, 2)
                        self._asks(faults, content)
                    self._answers(main)
                    if command in (_COMPLETE, _PAUSED):
                        self._asks(faults, content)
                        return

    def _answers(self, main: socket.socket) -> None:
        data = _REQUEST.pack(1, 0)
        if self._draw.random() < self._wild / 4:
            data = self._draw.choice(
                (_REQUEST.pack(2, 0), _REQUEST.pack(0, 0), _REQUEST.pack(1, 1 << 63),
                 _REQUEST.pack(9, 5), bits(self._draw, data), data * 2, b"")
            )  # fmt: skip
        main.sendall(data)
        if not data:
            raise ConnectionResetError

    def _asks(self, faults: socket.socket, content: bytes) -> None:
        for _ in range(self._draw.randint(1, 6)):
            which = self._draw.randrange(len(SLOTS))
            gpa, size, offset = SLOTS[which]
            at = self._draw.randrange(0, size, PAGE)
            data = _REQUEST.pack(_FAULT, 16) + struct.pack("<QQ", gpa + at, PAGE)
            if self._draw.random() < self._wild:
                faults.sendall(b"".join(pieces(self._draw, self._wrong(data, gpa + at))))
                if self._draw.random() < 0.5:
                    continue
                faults.settimeout(0.05)
            else:
                faults.sendall(data)
            status, length = _REQUEST.unpack(_whole(faults, _REQUEST.size))
            body = _whole(faults, length) if length <= PAGE else b""
            if not self._wild and status == 1:
                due = content[which * size + at :][:PAGE]
                found = body or os.pread(self._memfds[which], PAGE, offset + at)
                assert found == due, f"wrong bytes at gpa {gpa + at:#x}"
                self.right += 1

    def _wrong(self, data: bytes, gpa: int) -> bytes:
        draw = self._draw
        mask = (1 << 64) - 1
        return draw.choice((
            _REQUEST.pack(_FAULT, 16) + struct.pack("<QQ", number(draw, gpa) & mask, PAGE),
            _REQUEST.pack(_FAULT, 16) + struct.pack("<QQ", gpa, number(draw, PAGE) & mask),
            _REQUEST.pack(_FAULT, number(draw, 16) & mask) + data[16:],
            _REQUEST.pack(draw.randrange(12), 16) + data[16:],
            _REQUEST.pack(_ABANDON, 0),
            bits(draw, data),
            data * draw.randint(2, 300),
        ))  # fmt: skip


def play(draw: random.Random, folder: str, image: bytes, *, wild: float | None = None) -> int:
    """A restore by the daemon whose control socket is in `folder`; the pages that came right."""
    at = f"{folder}/vmm-{os.getpid()}"
    vmm = Vmm(draw, at, draw.choice((0.0, 0.3, 1.0)) if wild is None else wild)
    thread = threading.Thread(target=vmm.run, args=(image,), daemon=True)
    thread.start()
    shared = draw.choice(("shared", "private"))
    with contextlib.suppress(UserfaultError):
        line = Line.to(f"{folder}/control")
        try:
            restore(line, at, f"{folder}/{shared}")
        finally:
            line.close()
    thread.join(20)
    with contextlib.suppress(OSError):
        os.unlink(at)
    return vmm.right


def _whole(channel: socket.socket, length: int) -> bytes:
    found = bytearray()
    while len(found) < length:
        part = channel.recv(min(length - len(found), 1 << 16))
        if not part:
            raise ConnectionResetError
        found += part
    return bytes(found)
