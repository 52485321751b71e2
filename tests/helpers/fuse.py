"""A file that answers when it is told to: reads of it hang, fail, or come late, page by page.

It is the only file of a FUSE file system (linux/fuse.h, protocol 7.31), served by a process of its
own: the process that faults must not serve what its fault waits for.  A reader meets what it would
meet with a network file system whose server is gone: it sleeps in the kernel.  Needs root.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import mmap
import os
import select
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from helpers.pages import PAGE
from helpers.skips import absent, need_root

LOOKUP, FORGET, GETATTR, OPEN, READ, RELEASE, FLUSH, INIT = 1, 2, 3, 14, 15, 18, 25, 26
INTERRUPT, BATCH_FORGET, OPENDIR, RELEASEDIR = 36, 42, 27, 29
_ROOT, _FILE = 1, 2
_IN = struct.Struct("=IIQQIIIHH")
_OUT = struct.Struct("=IiQ")
_SERVE, _HOLD, _FAIL = 0, 1, 2
_MNT_DETACH = 2
_KEEP_CACHE = 2  # FOPEN_KEEP_CACHE
_FOREVER = 1 << 40


class SlowFile:
    """`path` shows `content`, a whole number of pages, when it is asked for them."""

    def __init__(self, path: Path, control: mmap.mmap, wake: int) -> None:
        self.path = path
        self._control = control
        self._wake = wake
        self.pages = len(control) - 1

    def hold(self, *pages: int) -> None:
        """Reads of these pages are not answered any more."""
        self._set(_HOLD, pages)

    def fail(self, *pages: int) -> None:
        """They fail with EIO."""
        self._set(_FAIL, pages)

    def release(self) -> None:
        """Everything is answered again, also what was asked for before."""
        self._control[:] = bytes(len(self._control))
        os.write(self._wake, b"!")

    def hold_attributes(self) -> None:
        """Neither is it told how long the file is, nor how old."""
        self._control[0] = _HOLD

    def _set(self, how: int, pages: tuple[int, ...]) -> None:
        for page in pages:
            self._control[1 + page] = how


@contextlib.contextmanager
def slow_file(folder: Path, content: bytes) -> Iterator[SlowFile]:
    """Within it, the file is there.  `folder`: empty, and this test's alone."""
    need_root()
    at, held = folder / "mounted", folder / "content"
    at.mkdir()
    held.write_bytes(content)
    libc = ctypes.CDLL(None, use_errno=True)
    try:
        device = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
    except OSError as error:
        absent(f"needs /dev/fuse: {error}")
    control_fd = os.memfd_create("control")
    os.ftruncate(control_fd, 1 + len(content) // PAGE)
    control = mmap.mmap(control_fd, 0)
    heard, wake = os.pipe()
    data = f"fd={device},rootmode=40755,user_id=0,group_id=0,allow_other".encode()
    if libc.mount(b"slow", os.fsencode(at), b"fuse", 0, data):
        code = ctypes.get_errno()
        for fd in (device, control_fd, heard, wake):
            os.close(fd)
        absent(f"cannot mount a FUSE file system: {os.strerror(code)}")
    fds = (device, control_fd, heard)
    program = "from helpers.fuse import serve; serve()"
    server = subprocess.Popen(
        [sys.executable, "-c", program, *map(str, fds), str(held)],
        pass_fds=fds,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )
    for fd in fds:
        os.close(fd)
    try:
        yield SlowFile(at / "image", control, wake)
    finally:
        libc.umount2(os.fsencode(at), _MNT_DETACH)
        server.kill()  # its end of /dev/fuse closes: whatever waits still fails
        server.wait()
        os.close(wake)
        control.close()


# --- the process that serves ----------------------------------------------------------------------


class _Server:
    def __init__(self, device: int, control: int, heard: int, path: str) -> None:
        self._device = device
        self._control = mmap.mmap(control, 0)
        self._heard = heard
        self._content = Path(path).read_bytes()
        self._held: list[tuple[int, int, int, bytes]] = []

    def run(self) -> None:
        poll = select.poll()
        poll.register(self._device, select.POLLIN)
        poll.register(self._heard, select.POLLIN)
        while True:
            for fd, _ in poll.poll():
                if fd == self._heard:
                    if not os.read(fd, 64):
                        return
                    held, self._held = self._held, []
                    for request in held:
                        self._answer(*request)
                else:
                    self._read()

    def _read(self) -> None:
        try:
            data = os.read(self._device, 1 << 20)
        except OSError as error:
            if error.errno == errno.ENODEV:  # it was unmounted
                sys.exit()
            return
        _, opcode, unique, node, *_ = _IN.unpack_from(data)
        self._answer(opcode, unique, node, data[_IN.size :])

    def _answer(self, opcode: int, unique: int, node: int, body: bytes) -> None:
        if opcode in (FORGET, BATCH_FORGET, INTERRUPT):
            return
        how = self._how(opcode, node, body)
        if how == _HOLD:
            self._held.append((opcode, unique, node, body))
        elif how == _FAIL:
            self._reply(unique, code=errno.EIO)
        else:
            self._serve(opcode, unique, node, body)

    def _how(self, opcode: int, node: int, body: bytes) -> int:
        if opcode == GETATTR and node == _FILE:
            return self._control[0]
        if opcode == READ:
            _, offset, size = struct.unpack_from("=QQI", body)
            pages = self._control[1 + offset // PAGE : 1 + -(-(offset + size) // PAGE)]
            return max(pages, default=_SERVE)
        return _SERVE

    def _serve(self, opcode: int, unique: int, node: int, body: bytes) -> None:
        if opcode == INIT:
            major, minor = struct.unpack_from("=II", body)
            flags = 1  # FUSE_ASYNC_READ
            reply = struct.pack("=IIIIHHIIHHI28x", major, min(minor, 31), 0, flags, 64, 48,
                                1 << 16, 1, 1, 0, 0)  # fmt: skip
        elif opcode == LOOKUP and body.rstrip(b"\0") == b"image":
            reply = struct.pack("=QQQQII", _FILE, 0, _FOREVER, 0, 0, 0) + self._attributes(_FILE)
        elif opcode == GETATTR:
            reply = struct.pack("=QII", 0, 0, 0) + self._attributes(node)
        elif opcode in (OPEN, OPENDIR):  # to drop what is cached, open(2) would wait for reads
            reply = struct.pack("=QII", 0, _KEEP_CACHE, 0)
        elif opcode == READ:
            _, offset, size = struct.unpack_from("=QQI", body)
            reply = self._content[offset : offset + size]
        elif opcode in (FLUSH, RELEASE, RELEASEDIR):
            reply = b""
        else:
            self._reply(unique, code=errno.ENOENT if opcode == LOOKUP else errno.ENOSYS)
            return
        self._reply(unique, reply)

    def _attributes(self, node: int) -> bytes:
        mode, size = (0o100644, len(self._content)) if node == _FILE else (0o40755, 0)
        times = (1_000_000_000,) * 3
        return struct.pack("=QQQQQQIIIIIIIIII", node, size, size // 512, *times, 0, 0, 0, mode, 1,
                           0, 0, 0, PAGE, 0)  # fmt: skip

    def _reply(self, unique: int, data: bytes = b"", code: int = 0) -> None:
        with contextlib.suppress(OSError):  # whoever asked was killed
            os.write(self._device, _OUT.pack(_OUT.size + len(data), -code, unique) + data)


def serve() -> None:
    """The program of the process that serves."""
    device, control, heard, path = sys.argv[1:]
    _Server(int(device), int(control), int(heard), path).run()
