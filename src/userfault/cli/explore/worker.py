"""One process of `userfault explore`: jobs come on standard input, reports go to standard output.

Both are JSON objects, one a line.  SIGTERM ends the job under way after its current schedule: what
it has come to is reported, so that it can be continued.
"""

from __future__ import annotations

import contextlib
import signal
import sys
import time

import msgspec

from userfault.check.explore import job
from userfault.check.explore.job import Job, Progress
from userfault.cli.shared import json_output
from userfault.kernel.errors import UserfaultError

_REPORT_S = 0.5


class _Work:
    def __init__(self) -> None:
        self.stopped = False
        self._reported = 0.0

    def stop(self, number: int, frame: object) -> None:
        """The signal handler."""
        del number, frame
        self.stopped = True

    def told(self, progress: Progress) -> None:
        """Report, but not too often."""
        if time.monotonic() - self._reported > _REPORT_S:
            self._reported = time.monotonic()
            json_output.line(progress)
            sys.stdout.flush()

    def do(self, text: bytes) -> None:
        """One job."""
        result = job.run(msgspec.json.decode(text, type=Job), self.told, lambda: self.stopped)
        json_output.line(result)
        sys.stdout.flush()


def main() -> None:
    """Jobs until the end of the input."""
    work = _Work()
    signal.signal(signal.SIGTERM, work.stop)
    # Nobody reads on: whoever started us has ended.
    with contextlib.suppress(BrokenPipeError):
        for text in sys.stdin.buffer:
            try:
                work.do(text)
            except UserfaultError as error:
                sys.exit(f"userfault: {error}")
            if work.stopped:
                return
