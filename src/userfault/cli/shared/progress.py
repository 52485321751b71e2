"""A bar on standard error while long work goes on, where that is a terminal."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

from rich.progress import (
    BarColumn,
    Progress,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from userfault.cli.shared import terminal
from userfault.cli.shared.screen import Screen


@contextlib.contextmanager
def bar(what: str) -> Iterator[Callable[[int, int | None], None]]:
    """Within the block the value is called with how much is done, of how much (None: unknown).

    It vanishes at the end.
    """
    console = Screen(stderr=True)
    shown = Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TaskProgressColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )
    with shown:
        task = shown.add_task(terminal.printable(what), total=None)
        yield lambda done, total: shown.update(task, completed=done, total=total)
