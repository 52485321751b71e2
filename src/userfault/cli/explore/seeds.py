"""Seeds of simulations, some batches at once, each in a process of its own.

`main` is the program of such a process: its batch is the argument, its reports go to standard
output, one JSON object a line.
"""

from __future__ import annotations

import contextlib
import itertools
import select
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence

import msgspec

from userfault.check.simulate.batch import Batch, Progress, play
from userfault.cli.shared import interrupts, json_output
from userfault.cli.shared.children import Reports, python_child
from userfault.kernel.errors import UserfaultError

_REPORT_S = 0.3


class _Running:
    """A batch under way."""

    def __init__(self, stack: contextlib.ExitStack, batch: Batch) -> None:
        self._batch = batch
        self._stack = stack.enter_context(contextlib.ExitStack())
        argument = msgspec.json.encode(batch).decode()
        self._child: subprocess.Popen[bytes] = self._stack.enter_context(
            python_child("userfault.cli.explore.seeds", argument)
        )
        self._reports: Reports[Progress] = Reports(self._child, Progress)
        self._done = 0

    def fileno(self) -> int:
        """For select(2)."""
        return self._reports.fileno()

    def said(self) -> list[Progress] | None:
        """What it has reported since; None once it has ended."""
        found = self._reports.read()
        if found is None:
            status = self._child.wait()
            self._stack.close()
            if status or self._done < self._batch.count:
                raise UserfaultError(
                    f"a process ended at seed {self._batch.first + self._done}",
                    cause=f"its status is {status}",
                )
            return None
        self._done += sum(each.seeds for each in found)
        return found


def run(batches: Sequence[Batch], jobs: int) -> Iterator[Progress]:
    """Run batches, `jobs` of them at once: what each has seen since it was last heard of.

    However this is left, every process has ended then.
    """
    waiting = iter(batches)
    with contextlib.ExitStack() as stack:
        running = [_Running(stack, one) for one in itertools.islice(waiting, jobs)]
        while running:
            for one in select.select(running, [], [])[0]:
                said = one.said()
                if said is not None:
                    yield from said
                    continue
                running.remove(one)
                running += [_Running(stack, new) for new in itertools.islice(waiting, 1)]


class _Teller:
    """Reports, but not too often."""

    def __init__(self) -> None:
        self._seen = Progress()
        self._at = time.monotonic()

    def told(self, progress: Progress) -> None:
        """One seed more."""
        self._seen.add(progress)
        if progress.broken or time.monotonic() - self._at > _REPORT_S:
            self.flush()

    def flush(self) -> None:
        """Report what was not reported yet."""
        if self._seen.seeds:
            json_output.line(self._seen)
            sys.stdout.flush()
        self._seen, self._at = Progress(), time.monotonic()


def main() -> None:
    """The batch is the argument."""
    interrupts.unwind_on_signals()
    batch = msgspec.json.decode(sys.argv[1], type=Batch)
    teller = _Teller()
    # Nobody reads on: whoever started us has ended.
    with contextlib.suppress(BrokenPipeError):
        play(batch, teller.told)
        teller.flush()
