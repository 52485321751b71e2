"""What test_losing.py does in processes of its own: bring a pager to an error of its own."""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterator
from contextlib import contextmanager

import userfault
from helpers.family import member
from helpers.pages import PAGE, numbers, pages
from pager_live import functions
from pager_live.scenes import worker_of
from pager_live.wire.test_answers import fails
from userfault import Policy, SourceError, lazy

DEMAND = Policy(background=False, retries=0)
NONSENSE = 77  # no page is ever in that state


@contextmanager
def states_of(pager: userfault.Pager, mapped: userfault.LazyMemory) -> Iterator[mmap.mmap]:
    """The states of the only mapping with so many pages, to be written to."""
    worker = worker_of(pager)
    for name in os.listdir(f"/proc/{worker}/fd"):
        path = f"/proc/{worker}/fd/{name}"
        try:
            states = "userfault-states" in os.readlink(path)
        except FileNotFoundError:  # open for a moment
            continue
        if states and os.stat(path).st_size == len(mapped) // PAGE:
            fd = os.open(path, os.O_RDWR)
            with mmap.mmap(fd, len(mapped) // PAGE) as held:
                os.close(fd)
                yield held
            return
    raise LookupError("no such states")


def states_that_make_no_sense() -> list[object]:
    """A client that writes nonsense over its page states harms one mapping of its own."""
    found: list[object] = []
    with userfault.Pager() as pager:
        sound = lazy(pages(1, 8), pager=pager, policy=DEMAND)
        lost = lazy(functions.numbered, length=9 * PAGE, pager=pager, policy=DEMAND)
        found.append(numbers(lost[:PAGE]))
        with states_of(pager, lost) as states:
            states[5] = NONSENSE
        fails(lost, 5)  # its own state says that it was dropped: it may read zero
        found.append([fails(lost, page) for page in (6, 0, 7)])
        found.append(numbers(sound[: 4 * PAGE]))
        found.append(_checked(lost))
        victim = member(pager, "worker")
        os.kill(victim, 9)
        found.append([fails(lost, page) for page in (6, 0, 8)])
        found.append(numbers(sound[4 * PAGE :]))
        found.append(_checked(lost))
        lost.close()
        sound.check()
        found.append(pager.takeovers)
        with lazy(pages(3, 1), pager=pager, policy=DEMAND) as new:
            found.append(numbers(new[:]))
        sound.close()
    return found


def _checked(mapped: userfault.LazyMemory) -> str:
    try:
        mapped.complete(timeout=20)
    except SourceError as error:
        return error.cause
    return "complete"


def a_childs_memory_is_lost_with_its_parents() -> list[object]:
    """A fork after the error, and one before."""
    read, write = os.pipe()
    with (
        userfault.Pager() as pager,
        lazy(pages(1, 9), pager=pager, policy=DEMAND, fork=True, writable=True) as lost,
    ):
        before = _touches(lost, read)
        with states_of(pager, lost) as states:
            states[5] = NONSENSE
        fails(lost, 5)
        after = _touches(lost, read)
        os.write(write, b"go")
        seen = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in (before, after)]
        return [fails(lost, 6), seen, pager.takeovers]


def _touches(mapped: userfault.LazyMemory, gate: int) -> int:
    """A child that, once it may, exits with 1 if page 3 cannot be read."""
    pid = os.fork()
    if pid:
        return pid
    os.read(gate, 1)
    os._exit(fails(mapped, 3))
