"""Scenes of memory that is let go of while other threads are busy with it."""

from __future__ import annotations

import ctypes
import os
import signal
import threading
from typing import Any

from userfault import Policy, lazy
from userfault.pager.drivers import messages


def fork_after_the_pager_has_let_go(image: str) -> dict[str, bool]:
    """Another thread forks when the pager has forgotten the memory, which is still registered."""
    libc = ctypes.CDLL(None)  # gives up the interpreter's lock, unlike os.fork
    mapped = lazy(image, fork=True, policy=Policy(background=False))
    parts = mapped._parts
    ask = parts.request
    children: list[int] = []
    found: dict[str, bool] = {}

    def request(message: Any) -> Any:
        answer = ask(message)
        if isinstance(message, messages.Detach):
            thread = threading.Thread(target=lambda: children.append(libc.fork()), daemon=True)
            thread.start()
            thread.join(20)
            found["forked"] = bool(children)
        return answer

    parts.request = request  # type: ignore[method-assign]
    parts.close()
    for child in children:  # it waits for a lock that its parent's main thread had
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    return found
