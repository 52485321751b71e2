"""Workers of the lab: each has a machine of its own, and takes the next job when it is free.

However this is left, by an error or by Ctrl-C, every worker and its machine have ended then; if we
are killed, the kernel ends them (PR_SET_PDEATHSIG).
"""

from __future__ import annotations

import contextlib
import select
import subprocess
import time
from collections import deque
from collections.abc import Iterator, Sequence

import msgspec

from userfault.cli.lab.jobs import BatchPart, Job, Ready, Said, Setup
from userfault.cli.shared.children import Reports, python_child
from userfault.kernel.errors import UserfaultError


class WorkerLost(UserfaultError):  # noqa: N818  # reads as what happened
    """A worker has ended by itself, or did not answer in time."""


class _Worker:
    def __init__(self, setup: Setup) -> None:
        self._stack = contextlib.ExitStack()
        argument = msgspec.json.encode(setup).decode()
        self._child: subprocess.Popen[bytes] = self._stack.enter_context(
            python_child("userfault.cli.lab.worker", argument)
        )
        assert self._child.stdin is not None
        self._input = self._child.stdin
        self._reports: Reports[Said] = Reports(self._child, Said)
        self.job: int | None = None
        self.ready: Ready | None = None
        self.heard = time.monotonic()

    def fileno(self) -> int:
        """For select(2)."""
        return self._reports.fileno()

    def start(self, number: int, job: Job) -> None:
        """Give it a job."""
        self.job = number
        self.heard = time.monotonic()
        with contextlib.suppress(BrokenPipeError):  # its end shows when it is read
            self._input.write(msgspec.json.encode(job) + b"\n")
            self._input.flush()

    def said(self) -> list[Said] | None:
        """What it has said since; None if it has ended."""
        found = self._reports.read()
        if found is not None:
            self.heard = time.monotonic()
        return found

    def close(self) -> None:
        """End it, and its machine."""
        self._stack.close()


class Crew:
    """Workers for one kernel: at most `size`, as many as there are jobs for."""

    def __init__(self, setup: Setup, size: int) -> None:
        self._setup = setup
        self._size = size
        self._workers: list[_Worker] = []

    def __enter__(self) -> Crew:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def ready(self) -> Ready:
        """Start a first worker; what it has booted."""
        worker = self._hire()
        while worker.ready is None:
            said = worker.said()  # waits: a boot has a limit of its own
            if said is None:
                self.close()
                raise WorkerLost("a worker of the lab did not start", cause="its process ended")
            worker.ready = next((found for found in said if isinstance(found, Ready)), None)
        return worker.ready

    def run(self, jobs: Sequence[Job], within_s: float) -> Iterator[tuple[int, Said | WorkerLost]]:
        """What the workers say, with the number of the job that it is about.

        The last that is heard of a job is its end; WorkerLost is one too.  `within_s`: how long a
        worker may be silent.
        """
        waiting = deque(range(len(jobs)))
        while len(self._workers) < min(self._size, len(jobs)):
            self._hire()
        while waiting or any(worker.job is not None for worker in self._workers):
            self._give(jobs, waiting)
            oldest = min(worker.heard for worker in self._workers)
            left = max(oldest + within_s - time.monotonic(), 0)
            readable = select.select(self._workers, [], [], left)[0]
            for worker in readable:
                yield from self._hear(worker)
            for worker in list(self._workers):
                if time.monotonic() - worker.heard > within_s:
                    yield from self._lose(worker, f"it was silent for {within_s:.0f} s")

    def _hire(self) -> _Worker:
        worker = _Worker(self._setup)
        self._workers.append(worker)
        return worker

    def _give(self, jobs: Sequence[Job], waiting: deque[int]) -> None:
        if not self._workers:
            self._hire()
        for worker in self._workers:
            if waiting and worker.job is None and worker.ready is not None:
                number = waiting.popleft()
                worker.start(number, jobs[number])
            elif worker.job is None and worker.ready is not None:
                worker.heard = time.monotonic()  # nothing is asked of it

    def _hear(self, worker: _Worker) -> Iterator[tuple[int, Said | WorkerLost]]:
        said = worker.said()
        if said is None:
            yield from self._lose(worker, "its process ended")
            return
        for found in said:
            if isinstance(found, Ready):
                worker.ready = found
            elif worker.job is not None:
                number = worker.job
                if not isinstance(found, BatchPart) or found.done:
                    worker.job = None
                yield number, found

    def _lose(self, worker: _Worker, why: str) -> Iterator[tuple[int, Said | WorkerLost]]:
        self._workers.remove(worker)
        worker.close()
        if worker.ready is None:
            raise WorkerLost("a worker of the lab did not start", cause=why)
        if worker.job is not None:
            yield worker.job, WorkerLost("a worker of the lab was lost", cause=why)

    def close(self) -> None:
        """End every worker and every machine."""
        while self._workers:
            self._workers.pop().close()
