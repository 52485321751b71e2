"""Jobs done by some processes at once; each takes the next one when it is free."""

from __future__ import annotations

import contextlib
import select
import signal
import subprocess
import time
from collections import deque
from collections.abc import Iterator, Sequence

import msgspec

from userfault.check.explore.job import Progress
from userfault.cli.explore.pieces import Part, Piece
from userfault.cli.shared.children import Reports, python_child
from userfault.kernel.errors import UserfaultError

_END_S = 8.0  # a schedule takes milliseconds


class _Worker:
    """One process."""

    def __init__(self, stack: contextlib.ExitStack) -> None:
        self._child: subprocess.Popen[bytes] = stack.enter_context(
            python_child("userfault.cli.explore.worker")
        )
        self._reports: Reports[Progress] = Reports(self._child, Progress)
        self.piece: Piece | None = None
        self._part: Part | None = None

    def fileno(self) -> int:
        """For select(2)."""
        return self._reports.fileno()

    def give(self, piece: Piece, part: Part) -> None:
        """Its next job."""
        self.piece, self._part = piece, part
        assert self._child.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # it has ended: what it wrote last tells why
            self._child.stdin.write(msgspec.json.encode(part.left()) + b"\n")
            self._child.stdin.flush()

    def hear(self) -> Piece | None:
        """Read its reports; the piece whose part has come to its end with them.

        Raises UserfaultError where the process has ended.
        """
        reports = self._reports.read()
        if reports is None:
            name = self.piece.job.scenario if self.piece is not None else "nothing"
            status = self._child.wait()
            raise UserfaultError(
                f"a process that explored {name} has ended", cause=f"its status is {status}"
            )
        piece, part = self.piece, self._part
        if not reports or piece is None or part is None:
            return None
        part.now = reports[-1]
        if not part.now.ended:
            return None
        part.done = True
        self.piece = self._part = None
        return piece

    def leave(self) -> None:
        """Ask it to stop after the schedule that it is at."""
        if self._child.poll() is None:
            self._child.send_signal(signal.SIGTERM)


class Crew:
    """Does the parts of pieces, in order."""

    def __init__(self, pieces: Sequence[Piece], processes: int) -> None:
        self._pieces = pieces
        self._processes = processes
        self._waiting: deque[tuple[Piece, Part]] = deque(
            (piece, part) for piece in pieces for part in piece.parts if not part.done
        )

    @property
    def schedules(self) -> int:
        """So far, of all pieces."""
        return sum(part.now.schedules for piece in self._pieces for part in piece.parts)

    def run(self) -> Iterator[Piece | None]:
        """Each piece when it has come to its end; None when there is news of others.

        Left early (Ctrl-C), every part has said what it has come to, and every process has ended.
        """
        with contextlib.ExitStack() as stack:
            count = min(self._processes, len(self._waiting))
            workers = [_Worker(stack) for _ in range(count)]
            try:
                for worker in workers:
                    self._next(worker)
                while busy := [worker for worker in workers if worker.piece is not None]:
                    for worker in select.select(busy, [], [])[0]:
                        yield self._heard(worker)
            except BaseException:
                self._collect(workers)
                raise

    def _heard(self, worker: _Worker) -> Piece | None:
        piece = worker.hear()
        if worker.piece is None:
            if piece is not None and piece.result().failure is not None:
                piece.stop()
            self._next(worker)
        return piece if piece is not None and piece.finished else None

    def _next(self, worker: _Worker) -> None:
        while self._waiting:
            piece, part = self._waiting.popleft()
            if not part.done:
                worker.give(piece, part)
                return

    def _collect(self, workers: Sequence[_Worker]) -> None:
        """Hear what each has come to."""
        busy = [worker for worker in workers if worker.piece is not None]
        for worker in busy:
            worker.leave()
        deadline = time.monotonic() + _END_S
        while busy and (left := deadline - time.monotonic()) > 0:
            for worker in select.select(busy, [], [], left)[0]:
                try:
                    worker.hear()
                except UserfaultError:  # it had not begun
                    worker.piece = None
                if worker.piece is None:
                    busy.remove(worker)
