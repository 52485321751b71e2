"""A client in narrow circumstances: under a limit, or with a system call that is refused.

`run()` forks a process that does one thing and says how it went; it is judged from outside.  Right
is: it worked, or it was told in one error with cause and cure; nothing hangs, nothing is left, no
byte is wrong, and standard error has no traceback and no flood.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import msgspec

from stress import family, source
from stress.source import PAGE
from userfault.kernel.errors import UserfaultError
from userfault.linux import pidfd

PAGES = 8
KIND = 1
_HANG_S = 60.0
_GONE_S = 15.0
_LINES = 3  # of standard error


class Went(msgspec.Struct):
    """`how`: "worked", "told" or what was wrong.  `text`: what was told, or said."""

    how: str
    text: str = ""

    @property
    def right(self) -> bool:
        return self.how in ("worked", "told")


def write_source(path: Path) -> None:
    """The file that clients map."""
    source.write_file(path, KIND, PAGES, PAGE)


def check(mapped: Any, page: int) -> None:
    """Raise AssertionError unless a page of the mapping is the source's."""
    if bytes(mapped[page * PAGE : (page + 1) * PAGE]) != source.words(KIND, page, PAGE):
        raise AssertionError(f"page {page} is wrong")


class Client:
    """A forked process that does `work`, at once or when `go` is called."""

    def __init__(self, work: Callable[[], None], *, wait: bool = False) -> None:
        self._said = os.memfd_create("said")
        self._mark = f"narrow-{os.getpid()}-{time.monotonic_ns()}"
        told, telling = os.pipe()
        start, self._start = os.pipe()
        self.pid = os.fork()
        if not self.pid:
            os.close(self._start)
            os.dup2(self._said, 2)
            os.environ["USERFAULT_NARROW"] = self._mark
            if wait:  # in the main thread `lazy()` would have its work done by another
                thread = threading.Thread(target=lambda: _when_told(start, work, telling))
                thread.start()
                thread.join()
            _do(work, telling)
        os.close(telling)
        os.close(start)
        self._process = os.pidfd_open(self.pid)
        self.told = told
        if not wait:
            self.go()

    def thread(self) -> int:
        """The thread that does it: its id."""
        while True:
            others = [int(tid) for tid in os.listdir(f"/proc/{self.pid}/task")]
            if len(others) > 1:
                return max(others, key=lambda tid: tid != self.pid)
            time.sleep(0.001)

    def go(self) -> None:
        """Have it begin."""
        if self._start >= 0:
            os.close(self._start)
            self._start = -1

    def went(self, signals: tuple[int, ...] = (), *, noisy: bool = False) -> Went:
        """Wait for its end, and judge it.

        `signals`: by which it may end too.  `noisy`: standard error is not looked at.
        """
        with contextlib.ExitStack() as end:
            end.callback(os.close, self._said)
            end.callback(os.close, self._process)
            end.callback(os.close, self.told)
            return self._judged(signals, noisy)

    def _judged(self, signals: tuple[int, ...], noisy: bool) -> Went:
        if not pidfd.wait(self._process, _HANG_S):
            place = Path(f"/proc/{self.pid}/wchan").read_text()
            pidfd.kill(self._process)
            os.waitpid(self.pid, 0)
            self._left()
            return Went(f"hangs in {place}", self._text())
        status = os.waitpid(self.pid, 0)[1]
        left = self._left()
        if left:
            return Went(f"leaves processes behind: {left}", self._text())
        text = self._text()
        if os.WIFSIGNALED(status) and os.WTERMSIG(status) in signals:
            return Went("told", f"signal {os.WTERMSIG(status)}")
        if status:
            return Went(f"ended with {status:#x}", text)
        if not noisy and ("Traceback" in text or len(text.splitlines()) > _LINES):
            return Went("says too much", text)
        with os.fdopen(os.dup(self.told), "rb") as file:
            return msgspec.json.decode(file.read(), type=Went)

    def _text(self) -> str:
        return os.pread(self._said, 1 << 16, 0).decode(errors="replace")

    def _left(self) -> list[int]:
        """Processes of the run that do not end by themselves; they are killed."""
        left = family.wait_gone(self._mark, _GONE_S)
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        return left


def _when_told(start: int, work: Callable[[], None], telling: int) -> NoReturn:
    os.read(start, 1)
    os.close(start)
    _do(work, telling)


def _do(work: Callable[[], None], telling: int) -> NoReturn:
    """In the child: do it, tell how it went."""
    try:
        try:
            work()
            went = Went("worked")
        except UserfaultError as error:
            went = Went("told" if error.cause and error.cure else "no cause or cure", str(error))
        except MemoryError as error:
            went = Went("told", repr(error))
        except BaseException as error:
            went = Went(f"raised {error!r}", traceback.format_exc())
        os.write(telling, msgspec.json.encode(went))
    finally:
        os._exit(0)
