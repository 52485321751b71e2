"""Exit codes, and how an error looks on the terminal."""

from __future__ import annotations

import click

from userfault.kernel.errors import Unavailable, UsageError, UserfaultError

FAILED = 1  # the job ran and found a failure
USAGE = 2  # as click has it
LACKING = 3  # this system lacks what is needed
DIFFERENT = 4  # two snapshots were compared, and differ
INTERRUPTED = 130  # 128 + SIGINT, as shells have it


def show(error: UserfaultError | OSError) -> None:
    """What failed, why and what to do, a line each, on standard error."""
    if not isinstance(error, UserfaultError):
        click.echo(f"userfault: {error}", err=True)
        return
    click.echo(f"userfault: {error.what}", err=True)
    if error.cause:
        click.echo(f"  cause: {error.cause}", err=True)
    if error.cure:
        click.echo(f"  cure:  {error.cure}", err=True)


def code(error: UserfaultError | OSError) -> int:
    """The exit code of a command that ended with it."""
    if isinstance(error, Unavailable):
        return LACKING
    return USAGE if isinstance(error, UsageError) else FAILED
