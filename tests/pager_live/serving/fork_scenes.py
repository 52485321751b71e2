"""Children of fork(2) that let go of their parent's lazy memory: scenes for `helpers.child`."""

from __future__ import annotations

import ctypes
import fcntl
import gc
import mmap
import os
import resource
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import userfault
from helpers.pages import PAGE, numbers
from pager_live import functions
from userfault import LazyMemory, Policy, lazy
from userfault.linux.hugepool import growing, read_pool
from userfault.linux.libc import Pinned
from userfault.linux.lifeline import LifeLine

DEMAND = Policy(background=False)
HUGE = 2 << 20


def in_child(work: Callable[[], int]) -> int:
    """The wait status of a child that does `work`."""
    pid = os.fork()
    if pid == 0:
        code = 99
        try:
            code = work()
        finally:
            os._exit(code)
    return os.waitpid(pid, 0)[1]


def address_of(memory: mmap.mmap) -> int:
    with Pinned(memory) as pinned:
        return pinned.address


def let_go(how: str, held: list[LazyMemory]) -> None:
    """Have the child let go of the memory in `held`."""
    memory = held[0]
    if how == "with":
        with memory:
            pass
    elif how == "close":
        memory.close()
        memory.close()
    elif how == "del":
        held.clear()
        del memory
        gc.collect()


def armed(memory: LazyMemory) -> bool:
    """Whether the life line's signal is still asked for: a flag of the open file, of all who hold
    it."""
    line = memory._parts.lifeline
    assert line is not None
    return bool(fcntl.fcntl(line.read, fcntl.F_GETFL) & os.O_ASYNC)


def child_lets_go(image: str, how: str, fork: bool) -> dict[str, Any]:
    """A child maps memory of its own, lets go of the parent's, and looks at its own again."""
    memory = lazy(image, policy=DEMAND, fork=fork)
    length = len(memory) // PAGE * PAGE

    def child() -> int:
        own = [mmap.mmap(-1, length) for _ in range(3)]
        for each in own:
            each[:] = b"\7" * length
        let_go(how, [memory])
        for each in own:
            if each[:] != b"\7" * length:
                return 1
        # What was freed may be had again, and is not unmapped once more by whoever comes later.
        more = [mmap.mmap(-1, length) for _ in range(3)]
        gc.collect()
        return 0 if all(each[:1] == b"\0" for each in more) else 2

    status = in_child(child)
    found = {"status": status, "armed": armed(memory), "page": numbers(memory[:PAGE])}
    memory.complete()
    found["all"] = numbers(memory[: 64 * PAGE]) == list(range(1, 65))
    memory.close()
    return found


def child_that_ends(image: str, report: str) -> dict[str, Any]:
    """A child runs its finalizers and atexit functions."""
    memory = lazy(image, policy=DEMAND)
    pid = os.fork()
    if pid == 0:
        raise SystemExit(7)
    status = os.waitpid(pid, 0)[1]
    Path(report).write_text(str(os.waitstatus_to_exitcode(status)))
    return {"armed": armed(memory), "alive": memory._parts.pager.alive, "page": memory[PAGE * 3]}


def descriptors_of_the_child(image: str) -> dict[str, Any]:
    """A child puts files of its own in the place of every descriptor, and lets go afterwards."""
    pager = userfault.Pager()
    memory = lazy(image, policy=DEMAND, pager=pager)
    other = lazy(image, policy=DEMAND)

    def child() -> int:
        soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        os.closerange(3, soft)
        own = [os.memfd_create(f"own-{n}") for n in range(100)]
        memory.close()
        pager.close()
        let_go("del", [other])
        return sum(os.readlink(f"/proc/self/fd/{fd}").count("own") for fd in own)

    status = in_child(child)
    return {"kept": os.waitstatus_to_exitcode(status), "page": [memory[0], other[PAGE]]}


def what_a_child_is_told(image: str, fork: bool) -> dict[str, Any]:
    """In a child every method but close() says whose the memory is; touching it is SIGSEGV."""
    read, write = os.pipe()
    pager = userfault.Pager()
    memory = lazy(image, policy=DEMAND, fork=fork, pager=pager)
    calls: list[Callable[[], object]] = [
        memory.complete, memory.wait, memory.check, memory.statistics, pager.replace,
        lambda: memory.prefetch(0, PAGE),
    ]  # fmt: skip

    def child() -> int:
        told = 0
        for call in calls:
            try:
                call()
            except userfault.PagerError as error:
                told += "another process" in str(error)
        os.write(write, bytes([told, pager.alive]))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        return ctypes.string_at(memory.address + 5 * PAGE, 1)[0]

    status = in_child(child)
    told, alive = os.read(read, 2)
    code = os.waitstatus_to_exitcode(status)
    return {"told": told == len(calls), "alive": bool(alive), "touch": code}


def child_without_hooks(image: str, taken: bool) -> dict[str, Any]:
    """A fork that Python does not know of: the child's own memory stays, wherever it lies."""
    memory = lazy(image, policy=DEMAND)
    length = len(memory) // PAGE * PAGE
    pid = ctypes.PyDLL(None).fork()
    if pid == 0:
        code = 99
        try:
            own = [mmap.mmap(-1, length) for _ in range(3)] if taken else []
            memory.close()
            own += [mmap.mmap(-1, length) for _ in range(3)]
            for each in own:
                each[:] = b"\7" * length
            code = 0
        finally:
            os._exit(code)
    status = os.waitpid(pid, 0)[1]
    return {"status": status, "armed": armed(memory), "page": memory[0]}


def huge_pages_of_a_child(image: str, fork: bool) -> dict[str, Any]:
    """Pages that were added to a pool stay the parent's; and a last huge page that is not full is
    unmapped by whoever lets go of it, and by nobody else."""
    before = read_pool(HUGE).persistent
    memory = lazy(image, memory="hugetlb", grow_pool=True, fork=fork, policy=DEMAND)
    held = [memory]
    grown = read_pool(HUGE).persistent
    whole = -(-len(memory) // HUGE) * HUGE

    def child() -> int:
        own = [mmap.mmap(-1, whole) for _ in range(3)]
        held[0].close()
        for each in own:
            each[:] = b"\7" * whole
        return 0

    status = in_child(child)
    found = {"status": status, "kept": read_pool(HUGE).persistent == grown, "page": memory[0]}
    address = memory.address
    held.clear()
    del memory
    with open("/proc/self/maps") as maps:
        ends = [[int(end, 16) for end in line.split()[0].split("-")] for line in maps]
    found["mapped"] = any(start < address + whole and end > address for start, end in ends)
    found["given back"] = read_pool(HUGE).persistent == before
    return found


def parent_ends_when_the_family_dies_after_a_child_left(image: str) -> None:
    """Ends by SIGBUS: the child did not take the life line off."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    memory = lazy(image, policy=DEMAND)

    def child() -> int:
        memory.close()
        return 0

    assert in_child(child) == 0
    members = list(memory._parts.pager.processes().values())
    for number in (signal.SIGSTOP, signal.SIGKILL):
        for pid in members:
            os.kill(pid, number)
    ctypes.CDLL(None).memchr(ctypes.c_void_p(memory.address + 5 * PAGE), 0, 1)


def child_that_ends_while_a_page_pauses(gate: str) -> dict[str, Any]:
    """A read for it fails again and again, and another one is answered when it has ended."""
    source = userfault.function(functions.failing_and_gated, 64 * PAGE, gate=gate)
    memory = lazy(source, policy=Policy(background=False, retries=6), fork=True)
    pid = os.fork()
    if pid == 0:
        touch = ctypes.CDLL(None).memchr  # lets other threads run while it waits
        gated = ctypes.c_void_p(memory.address + 2 * PAGE)
        threading.Thread(target=touch, args=(gated, 0, 1)).start()
        touch(ctypes.c_void_p(memory.address + PAGE), 0, 1)
    failed = Path(f"{gate}.failed")
    while not failed.exists() or failed.stat().st_size < 4:  # now it pauses for 1.28 s
        time.sleep(0.01)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    Path(gate).touch()  # before it is seen in another way that the child has ended
    time.sleep(1.5)
    memory.check()  # it is not given up
    return {"page": memory[3 * PAGE]}


def child_forked_in_the_middle() -> dict[str, bool]:
    """Another thread forks while a life line has its writer, and a pool is locked."""
    line = LifeLine.armed(signal.SIGUSR1)
    heard = []
    signal.signal(signal.SIGUSR1, lambda *_: heard.append(1))
    with growing(HUGE):
        pid = os.fork()
        if pid == 0:
            signal.pause()
            os._exit(0)
    file = os.open(f"/sys/kernel/mm/hugepages/hugepages-{HUGE >> 10}kB/free_hugepages", os.O_RDONLY)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        free = True
    except BlockingIOError:
        free = False
    line.close_writer()
    deadline = time.monotonic() + 10
    while not heard and time.monotonic() < deadline:
        time.sleep(0.01)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    line.close()
    return {"heard": bool(heard), "free": free}
