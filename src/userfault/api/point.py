"""A consistent point: all threads of this program stand still while a helper copies what they have
written last."""

from __future__ import annotations

import contextlib
import ctypes
import mmap
import os

import msgspec

from userfault.api.helper import Helper
from userfault.api.point_main import Copied, Wanted
from userfault.kernel.errors import PagerError, Unavailable
from userfault.linux.written import Run

_PR_SET_PTRACER = 0x59616D61  # linux/prctl.h
_YAMA = "/proc/sys/kernel/yama/ptrace_scope"


class Point(msgspec.Struct):
    """Pages as they were at one moment: `runs` of addresses, one after the other in `data`; where
    one is there several times, the last one counts.

    Where it has `failed` (our threads cannot be stopped, a page cannot be read): what was written.
    `lost`: because a mapping is tracked no more.
    """

    runs: list[Run]
    data: mmap.mmap | None
    stopped_s: float
    held_s: float
    failed: Unavailable | None = None
    lost: bool = False


class Stopper:
    """The helper, from its first use on."""

    def __init__(self) -> None:
        self._helper: Helper | None = None

    def start(self) -> None:
        """Have it there, so that nobody waits for it later.  Raises PagerError."""
        if self._helper is None:
            self._helper = Helper("userfault.api.point_main")

    def copy(self, wanted: Wanted, fds: tuple[int, int]) -> Point:
        """See `Wanted`; `fds`: our pagemap, our memory.  Raises PagerError where it has died."""
        self.start()
        assert self._helper is not None
        _allow(self._helper.pid)
        try:
            data, (copy,) = self._helper.ask(msgspec.msgpack.encode(wanted), fds)
        except (PagerError, ValueError):
            self.close()
            raise
        finally:
            _allow(0)
        try:
            copied = msgspec.msgpack.decode(data, type=Copied)
            if copied.failed is not None:
                self.close()
                what, cause, cure = copied.failed
                failed = Unavailable(what, cause=cause, cure=cure)
                return Point(copied.runs, None, 0.0, 0.0, failed, copied.lost)
            length = os.fstat(copy).st_size
            held = mmap.mmap(copy, length, prot=mmap.PROT_READ) if length else None
            return Point(copied.runs, held, copied.stopped_s, copied.held_s)
        finally:
            os.close(copy)

    def close(self) -> None:
        """End the helper."""
        helper, self._helper = self._helper, None
        if helper is not None:
            helper.close()

    def forked(self) -> None:
        """In a child of fork(2)."""
        helper, self._helper = self._helper, None
        if helper is not None:
            helper.forked()


def _allow(pid: int) -> None:
    """Under Yama a child may look at its parent where that allows it (PR_SET_PTRACER)."""
    with contextlib.suppress(OSError), open(_YAMA) as file:
        if file.read().strip() == "1":
            ctypes.CDLL(None).prctl(_PR_SET_PTRACER, *map(ctypes.c_ulong, (pid, 0, 0, 0)))
