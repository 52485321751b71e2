"""Plays sessions one after the other, each in a process of its own.  Run by `helpers.child`."""

from __future__ import annotations

import os
import random
import resource
import signal
import sys
import traceback

from serve.fuzzing.sessions import World
from serve.fuzzing.tongues import TONGUES

# What the daemon may end a client by: it is refused, or a page was given up.
_FAIR = (signal.SIGKILL, signal.SIGBUS)


def play(tongue: str, seed: int, first: int, sessions: int, folder: str, image: str) -> list[str]:
    """Sessions `first` and on of that seed; what must not have happened, a line each."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    world = World(folder, image)
    wrong = []
    for number in range(first, first + sessions):
        pid = os.fork()
        if not pid:
            _one(tongue, random.Random(f"{tongue} {seed} {number}"), world)
        _, status = os.waitpid(pid, 0)
        said = _unfair(status)
        if said:
            wrong.append(f"{tongue} session {number} of seed {seed}: {said}")
    return wrong


def _one(tongue: str, draw: random.Random, world: World) -> None:
    code = 1
    try:
        TONGUES[tongue](draw, world)
        code = 0
    except BaseException:  # it is told by the exit code
        traceback.print_exc()
        sys.stderr.flush()
    finally:
        os._exit(code)


def _unfair(status: int) -> str:
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        if number == signal.SIGALRM:
            return "it had handed over its memory, and waited for ever"
        return "" if number in _FAIR else f"it ended by {signal.Signals(number).name}"
    return "it failed (its traceback is above)" if os.WEXITSTATUS(status) else ""
