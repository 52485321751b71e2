"""A run of random programs as a command, under way."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Iterator

from cli.commands import command, environment
from helpers.world import PoolLock


@contextlib.contextmanager
def fuzzing() -> Iterator[subprocess.Popen[str]]:
    """`userfault check --fuzz` in a session of its own, which has told of its first programs."""
    with (
        PoolLock(),
        subprocess.Popen(
            command("check", "--fuzz", "--programs", "100000"),
            env=environment(PYTHONUNBUFFERED="1"),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        ) as process,
    ):
        assert process.stdout is not None
        while "a second" not in process.stdout.readline():
            pass
        yield process
