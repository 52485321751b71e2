"""Exit codes, and how an error looks on the terminal."""

from __future__ import annotations

from userfault.cli import terminal
from userfault.kernel.errors import Unavailable, UsageError, UserfaultError

FAILED = 1  # the job ran and found a failure
USAGE = 2  # as click has it
LACKING = 3  # this system lacks what is needed
DIFFERENT = 4  # two snapshots were compared, and differ
INTERRUPTED = 130  # 128 + SIGINT, as shells have it


def show(error: UserfaultError | OSError) -> None:
    """What failed, why and what to do, a line each, on standard error."""
    if not isinstance(error, UserfaultError):
        terminal.say(f"userfault: {error}", err=True)
        return
    terminal.say(f"userfault: {error.what}", err=True)
    if error.cause:
        terminal.say(_within("  cause: ", error.cause), err=True)
    if error.cure:
        terminal.say(_within("  cure:  ", error.cure), err=True)


def _within(label: str, text: str) -> str:
    """A text of several lines behind its label: none of them can be taken for one of ours."""
    return label + text.replace("\n", "\n" + " " * len(label))


def code(error: UserfaultError | OSError) -> int:
    """The exit code of a command that ended with it."""
    if isinstance(error, Unavailable):
        return LACKING
    return USAGE if isinstance(error, UsageError) else FAILED
