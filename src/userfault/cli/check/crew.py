"""Batches of random programs, some of them at once, each in a process of its own."""

from __future__ import annotations

import contextlib
import itertools
import select
import subprocess
from collections.abc import Iterator

import msgspec

from userfault.check.differential.batch import Batch
from userfault.cli.shared.checking.tally import Progress
from userfault.cli.shared.children import Reports, python_child
from userfault.kernel.errors import UserfaultError


class _Running:
    """A batch under way."""

    def __init__(self, stack: contextlib.ExitStack, number: int, batch: Batch) -> None:
        self.number = number
        self._batch = batch
        self._stack = stack.enter_context(contextlib.ExitStack())
        argument = msgspec.json.encode(batch).decode()
        self._child: subprocess.Popen[bytes] = self._stack.enter_context(
            python_child("userfault.cli.check.batch", argument)
        )
        self._reports: Reports[Progress] = Reports(self._child, Progress)
        self._done = 0

    def fileno(self) -> int:
        """For select(2)."""
        return self._reports.fileno()

    def said(self) -> list[Progress] | None:
        """What it has reported since; None once it has ended.

        Raises UserfaultError if it ended before its last program.
        """
        found = self._reports.read()
        if found is None:
            self._end()
        elif found:
            self._done = found[-1].programs
        return found

    def _end(self) -> None:
        status = self._child.wait()
        self._stack.close()
        if status or self._done < self._batch.programs:
            raise UserfaultError(
                f"a batch ended after {self._done} of {self._batch.programs} programs",
                cause=f"its process ended with status {status}; its seed was {self._batch.seed}",
            )


def run(batches: Iterator[Batch], jobs: int) -> Iterator[tuple[int, Progress]]:
    """Run batches, `jobs` of them at once: the reports of each, with its number, as they come.

    However this is left, every process has ended then.  Raises UserfaultError where one ended by
    itself.
    """
    waiting = enumerate(batches)
    with contextlib.ExitStack() as stack:
        running = [_Running(stack, *one) for one in itertools.islice(waiting, jobs)]
        while running:
            for one in select.select(running, [], [])[0]:
                said = one.said()
                if said is not None:
                    yield from ((one.number, progress) for progress in said)
                    continue
                running.remove(one)
                running += [_Running(stack, *new) for new in itertools.islice(waiting, 1)]
