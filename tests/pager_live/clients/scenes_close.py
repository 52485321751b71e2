"""Scenes of memory that is made, or let go of, while another thread forks."""

from __future__ import annotations

import ctypes
import os
import signal
import threading
from typing import Any

from userfault import Pager, Policy, lazy
from userfault.pager.drivers.wire import messages


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


def fork_before_the_pager_has_the_memory(image: str) -> dict[str, bool]:
    """Another thread forks when the memory is registered and the pager was not told yet."""
    libc = ctypes.CDLL(None)
    children: list[int] = []
    found: dict[str, bool] = {}
    with Pager() as pager:
        ask = pager.request

        def request(message: Any, fds: Any = ()) -> Any:
            if isinstance(message, messages.Attach):
                thread = threading.Thread(target=lambda: children.append(libc.fork()), daemon=True)
                thread.start()
                thread.join(20)
                found["forked"] = bool(children)
            return ask(message, fds)

        pager.request = request  # type: ignore[method-assign]
        with lazy(image, fork=True, policy=Policy(background=False), pager=pager) as mapped:
            child = os.fork()  # from here on it is the child's as well
            if not child:
                os._exit(mapped[8])
            found["inherited"] = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == mapped[8]
    for child in children:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    return found
