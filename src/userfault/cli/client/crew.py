"""A client in a process of its own, watched until its end.

A thread whose fault nobody answers cannot be told to stop, so the client is a process that can be
killed; what it was at is seen on its board.
"""

from __future__ import annotations

import contextlib
import enum
import os
import select
import signal
import subprocess
from collections.abc import Callable, Iterator

import msgspec

from userfault.cli.shared.children import Reports, python_child
from userfault.client.board import Board, Waiting
from userfault.client.results import CLOSED, Result, Said
from userfault.kernel.errors import Unavailable

_LOOK_S = 0.05
Progress = Callable[[int, int | None], None]


class Verdict(enum.Enum):
    """How it ended, and the exit code of that."""

    RIGHT = ("right", 0)
    WRONG = ("wrong", 1)
    REFUSED = ("refused", 6)
    HUNG = ("hung", 7)
    POISONED = ("poisoned", 8)

    @property
    def word(self) -> str:
        return self.value[0]

    @property
    def code(self) -> int:
        return self.value[1]


class Outcome(msgspec.Struct):
    """Of one client.  `did`: of a hostile one, what the handler did about it."""

    verdict: Verdict
    why: str = ""
    result: Result | None = None
    waiting: Waiting | None = None
    did: str = ""


class Crew:
    """One client that runs."""

    def __init__(self, child: subprocess.Popen[bytes], board: Board, timeout_s: float) -> None:
        self._child = child
        self._reports: Reports[Said] = Reports(child, Said)
        self._board = board
        self._timeout_s = timeout_s
        self._steps: int | None = None
        self._ended = False
        self._closed = False
        self._last = Said()

    def until(self, stage: str) -> Outcome | None:
        """Wait for this stage; how it ended, if it did before."""
        return self._wait(stage, None)

    def end(self, progress: Progress | None = None) -> Outcome:
        """Wait for its end.  Raises Unavailable where this system lacks what the client needs."""
        outcome = None
        while outcome is None:
            outcome = self._wait(None, progress)
        return outcome

    def _wait(self, stage: str | None, progress: Progress | None) -> Outcome | None:
        while not self._ended:
            ready = select.select([self._reports], [], [], _LOOK_S)[0]
            if progress is not None:
                progress(self._board.done(), self._steps)
            hung = self._board.longest()
            if not ready and hung is not None and hung.age_s > self._timeout_s:
                self._child.kill()
                return self._hung(hung)
            if ready and self._read(stage):
                return None
        self._child.wait()
        return self._outcome()

    def _read(self, stage: str | None) -> bool:
        said = self._reports.read()
        if said is None:
            self._ended = True
            return False
        reached = False
        for each in said:
            if each.stage == CLOSED:
                self._closed = True
                continue
            self._last = each
            self._steps = each.steps or self._steps
            reached = reached or each.stage == stage
        return reached

    def _hung(self, waiting: Waiting) -> Outcome:
        where = f" at {waiting.address:#x}" if waiting.address else ""
        why = f"thread {waiting.thread} has been {waiting.step}{where} for {waiting.age_s:.1f} s"
        if self._closed:
            return Outcome(Verdict.REFUSED, f"it closed the connection; {why}", waiting=waiting)
        return Outcome(Verdict.HUNG, why, waiting=waiting)

    def _outcome(self) -> Outcome:
        """It has ended."""
        said = self._last
        if said.lacking is not None:
            what, cause, cure = said.lacking
            raise Unavailable(what, cause=cause, cure=cure)
        return _by_word(said) or self._by_end(self._child.returncode)

    def _by_end(self, code: int) -> Outcome:
        """It has not said how."""
        at = self._board.longest()
        where = f" while thread {at.thread} was {at.step} at {at.address:#x}" if at else ""
        if code == -signal.SIGBUS:
            return Outcome(Verdict.POISONED, f"SIGBUS{where}: the page was given up", waiting=at)
        if code == -signal.SIGKILL:
            return Outcome(Verdict.REFUSED, f"it was killed{where}", waiting=at)
        return Outcome(Verdict.WRONG, f"the client ended with {code}{where}", waiting=at)


def _by_word(said: Said) -> Outcome | None:
    """What it has said of its end, if anything."""
    if said.refused:
        return Outcome(Verdict.REFUSED, said.refused)
    if said.poisoned:
        return Outcome(Verdict.POISONED, said.poisoned)
    if said.result is not None:
        return Outcome(_judged(said.result), result=said.result)
    return Outcome(Verdict.RIGHT, did=said.did) if said.did else None


def _judged(result: Result) -> Verdict:
    return Verdict.RIGHT if result.is_right else Verdict.WRONG


@contextlib.contextmanager
def running(module: str, asked: msgspec.Struct, timeout_s: float) -> Iterator[Crew]:
    """The client of that module, until the end of the block, whatever it is at then."""
    board = Board.made()
    try:
        text = msgspec.json.encode(asked).decode()
        with python_child(module, text, str(board.fd), pass_fds=[board.fd]) as child:
            try:
                yield Crew(child, board, timeout_s)
            finally:
                # It may sleep in a fault: SIGTERM would do, but nothing of it needs an orderly end.
                if child.poll() is None:
                    os.kill(child.pid, signal.SIGKILL)
    finally:
        board.close()


def run(
    module: str, asked: msgspec.Struct, timeout_s: float, progress: Progress | None = None
) -> Outcome:
    """The client of that module, to its end."""
    with running(module, asked, timeout_s) as crew:
        return crew.end(progress)
