"""Exit codes, and how an error looks on the terminal."""

from __future__ import annotations

from userfault.cli.shared import terminal
from userfault.kernel.errors import Unavailable, UsageError, UserfaultError

FAILED = 1  # the job ran and found a failure
USAGE = 2  # as click has it
LACKING = 3  # this system lacks what is needed
DIFFERENT = 4  # two snapshots were compared, and differ
UNSEEN = 5  # nothing was found, and not everything was looked at
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


def of_a_limit(error: Exception) -> Unavailable | None:
    """What Python raises where a limit of the system is met, as an error of ours; else None."""
    if isinstance(error, MemoryError):
        return Unavailable(
            "memory ran out",
            cause="a limit on memory or address space was met",
            cure="raise `ulimit -v`, or memory.max of the cgroup",
        )
    if isinstance(error, RuntimeError) and "can't start new thread" in str(error):
        return Unavailable(
            "no thread can be started",
            cause="a limit on processes, threads or address space was met",
            cure="raise `ulimit -u` or `ulimit -v`, or pids.max of the cgroup",
        )
    if isinstance(error, ImportError) and "failed to map" in str(error):
        return Unavailable(
            f"cannot load {error.name or 'a library'}",
            cause=str(error),
            cure="raise `ulimit -v`, or memory.max of the cgroup",
        )
    return None


def _within(label: str, text: str) -> str:
    """A text of several lines behind its label: none of them can be taken for one of ours."""
    return label + text.replace("\n", "\n" + " " * len(label))


def code(error: UserfaultError | OSError) -> int:
    """The exit code of a command that ended with it."""
    if isinstance(error, Unavailable):
        return LACKING
    return USAGE if isinstance(error, UsageError) else FAILED
