"""What a live program touches first after a restore, with the memory that it is restored from.

The program runs with `c/freeze.c` preloaded: on a signal its memory goes to a file, is registered
and dropped, and from then on each first touch is a fault that is answered, and noted, here.  So the
order of touches is that of a real program; nothing is left out or put in.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import select
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from bench.images import PAGE, Image
from bench.native import Native
from userfault.kernel.errors import KernelError
from userfault.kernel.events import PageFault
from userfault.kernel.memtypes import MIB, round_up
from userfault.linux.libc import Pinned
from userfault.linux.uffd import LiveUserfaultfd

_SIGNAL = 44  # of real time, which nobody else uses
_MOST = 1 << 16  # bytes of a message
_REGION = struct.Struct("=QQ")


class Frozen(NamedTuple):
    """`image`: the memory, whole.  `touches`: its pages in the order of their first touch, with the
    seconds since the restore."""

    name: str
    image: Image
    touches: Sequence[tuple[int, float]]


def database(directory: Path, native: Native, mib: int) -> Frozen:
    """A CPython process that serves from a database in memory."""
    path, place = directory / "frozen.image", directory / "frozen.socket"
    environment = {
        **os.environ,
        "LD_PRELOAD": str(native.freezer),
        "BENCH_FREEZE_IMAGE": str(path),
        "BENCH_FREEZE_SOCKET": str(place),
        "PYTHONPATH": os.pathsep.join(sys.path),
    }
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        listener.bind(str(place))
        listener.listen()
        process = subprocess.Popen(
            [sys.executable, "-m", "bench.programs", "database", str(mib)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,
            env=environment,
        )
        try:
            touches = _served(process, listener, path)
        finally:
            process.kill()
            process.communicate()
            place.unlink()
    fd = os.open(path, os.O_RDWR)
    path.unlink()
    os.ftruncate(fd, round_up(os.fstat(fd).st_size, MIB))  # whole pages of any side
    return Frozen("a CPython process with a database", Image.of(fd, native), touches)


def _served(
    process: subprocess.Popen[bytes], listener: socket.socket, path: Path
) -> Sequence[tuple[int, float]]:
    """Freeze it, have it serve, and note what it touches until it has."""
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdout.readline()
    os.kill(process.pid, _SIGNAL)
    listener.settimeout(60)
    channel, _ = listener.accept()
    with channel, contextlib.ExitStack() as end:
        data, fds, *_ = socket.recv_fds(channel, _MOST, 1)
        uffd = end.enter_context(LiveUserfaultfd.adopt(fds[0]))
        file = end.enter_context(path.open("rb"))
        image = end.enter_context(mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ))
        pinned = end.enter_context(Pinned(image))
        memory = _Memory(uffd, list(_REGION.iter_unpack(data)), pinned.address)
        channel.send(b"x")
        process.stdin.write(b"serve\n")
        poll = select.poll()
        poll.register(uffd.fileno(), select.POLLIN)
        poll.register(process.stdout, select.POLLIN)
        while process.stdout.fileno() not in (ready := {fd for fd, _ in poll.poll(60_000)}):
            if not ready:
                raise TimeoutError("the frozen program has stopped")
            memory.serve()
        return list(memory.touched.items())


class _Memory:
    """Regions of a process, one behind the other in the image at `source`."""

    def __init__(
        self, uffd: LiveUserfaultfd, regions: Sequence[tuple[int, int]], source: int
    ) -> None:
        self._uffd = uffd
        self._source = source
        self._regions = []
        at = 0
        for start, length in regions:
            self._regions.append((start, start + length, at - start))
            at += length
        self._began = time.monotonic()
        self.touched: dict[int, float] = {}

    def serve(self) -> None:
        """The faults that wait."""
        for event in self._uffd.read():
            assert isinstance(event, PageFault)
            address = event.address // PAGE * PAGE
            shift = next(by for low, high, by in self._regions if low <= address < high)
            offset = address + shift
            with contextlib.suppress(KernelError):  # another thread had asked for it
                self._uffd.copy(address, self._source + offset, PAGE)
            self.touched.setdefault(offset // PAGE, time.monotonic() - self._began)
