"""A client that does not hear SIGBUS, and whose pager is killed: scenes for `helpers.child`."""

from __future__ import annotations

import fcntl
import os
import resource
import signal
import threading
import time
from collections.abc import Callable

from userfault import LazyMemory, Policy, lazy
from userfault.linux.signals import reaches

F_GETSIG = 11
DEMAND = Policy(background=False)
PAGE = 4096


def deaf(how: str) -> None:
    """Keep SIGBUS from this process."""
    if how == "ignored":
        signal.signal(signal.SIGBUS, signal.SIG_IGN)
    elif how == "blocked":
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())


def hears_again(how: str) -> None:
    if how == "ignored":
        signal.signal(signal.SIGBUS, signal.SIG_DFL)
    elif how == "blocked":
        signal.pthread_sigmask(signal.SIG_SETMASK, [])


def asked_for(memory: LazyMemory) -> int:
    """The signal of the life line."""
    line = memory._parts.lifeline
    assert line is not None
    return fcntl.fcntl(line.read, F_GETSIG)


def until(condition: Callable[[], bool], timeout_s: float = 20) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "it never came"
        time.sleep(0.01)


def touches_when_all_are_dead(image: str, how: str, when: str) -> None:
    """Ends by a signal: the whole family is killed, then a page is touched."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if when == "before":
        deaf(how)
    memory = lazy(image, policy=DEMAND)
    if when != "before":
        deaf(how)
    if when == "after, and back":
        until(lambda: asked_for(memory) == signal.SIGKILL)
        hears_again(how)
    expected = signal.SIGKILL if how != "not" and when != "after, and back" else signal.SIGBUS
    until(lambda: asked_for(memory) == expected)
    members = list(memory._parts.pager.processes().values())
    for number in (signal.SIGSTOP, signal.SIGKILL):
        for pid in members:
            os.kill(pid, number)
    memory[100 * PAGE]


def threads_that_block(blocked: list[bool]) -> bool | None:
    """What is seen of a process with one thread for each of `blocked`, and its own that blocks."""
    begun = threading.Barrier(len(blocked) + 1)
    end = threading.Event()

    def run(block: bool) -> None:
        if not block:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGBUS])
        begun.wait()
        end.wait()

    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGBUS])
    threads = [threading.Thread(target=run, args=(each,)) for each in blocked]
    for thread in threads:
        thread.start()
    begun.wait()
    found = reaches(os.getpid(), signal.SIGBUS)
    end.set()
    for thread in threads:
        thread.join()
    return found


def not_to_be_seen() -> list[bool | None]:
    """A process that is none, one that ignores, and one as they are made."""
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)
    plain = reaches(os.getpid(), signal.SIGBUS)
    signal.signal(signal.SIGBUS, signal.SIG_IGN)
    return [reaches(pid, signal.SIGBUS), reaches(os.getpid(), signal.SIGBUS), plain]
