"""What runs in other processes: users without rights, clients that fork, die or are killed.

Each function is run by `helpers.child`; it returns something that JSON can carry.
"""

from __future__ import annotations

import os
import resource
import signal
import socket
from typing import Any

from helpers.child import become_nobody, forbid_system_call
from helpers.leaks import descriptors
from helpers.pages import PAGE, numbers, pages
from linux.calls import write_from
from userfault.kernel.errors import MemoryUnavailable, OpenRefused, UserfaultError
from userfault.kernel.memtypes import MIB, memory
from userfault.kernel.modes import Feature, Mode
from userfault.linux import libc
from userfault.linux.hugepool import PoolShare, read_pool
from userfault.linux.opening import open_userfaultfd
from userfault.linux.process import LiveKernel, LiveMapping
from userfault.linux.swapfile import SwapFile
from userfault.linux.uffd import LiveUserfaultfd
from userfault.uapi.syscalls import SYSCALLS

# --- users ---------------------------------------------------------------------------------------


def open_as_nobody(user_mode_only: bool | None) -> dict[str, Any]:
    """Open as a user without any right."""
    become_nobody()
    return _try_to_open(user_mode_only)


def open_behind_seccomp(code: int) -> dict[str, Any]:
    """Open as nobody where a filter refuses userfaultfd(2), as in a container."""
    forbid_system_call(SYSCALLS[os.uname().machine]["userfaultfd"], code)
    become_nobody()
    return _try_to_open(None)


def _try_to_open(user_mode_only: bool | None) -> dict[str, Any]:
    before = descriptors()
    try:
        opened = open_userfaultfd(user_mode_only=user_mode_only)
    except OpenRefused as error:
        left = len(descriptors()) - len(before)
        return {"attempts": error.attempts, "text": str(error), "left": left}
    os.close(opened.fd)
    return {"way": opened.way, "user_mode_only": opened.user_mode_only}


def ask_for_fork_events_as_nobody() -> str:
    """EVENT_FORK without CAP_SYS_PTRACE."""
    become_nobody()
    try:
        LiveUserfaultfd.open(Feature.EVENT_FORK).close()
    except UserfaultError as error:
        return str(error)
    return "granted"


def system_call_on_a_missing_page_as_nobody() -> dict[str, Any]:
    """write(2) from a missing page, and an ordinary touch, on a user-mode-only userfaultfd."""
    kernel = LiveKernel()
    process = kernel.process()
    become_nobody()
    mapping = process.map(memory("anon"), PAGE)
    uffd = process.userfaultfd()
    uffd.register(mapping.address, PAGE, Mode.MISSING)
    task = process.task()
    refused = task.call(lambda: write_from(mapping.address, 8)).result()
    messages = len(uffd.read())
    touched = task.read(mapping.address, PAGE)
    kernel.settle()
    faults = len(uffd.read())
    uffd.copy(mapping.address, pages(7, 1), PAGE)
    return {
        "errno": refused.errno,
        "messages": messages,
        "faults": faults,
        "page": numbers(touched.result().data),
    }


def grow_a_pool_as_nobody() -> str:
    """hugetlb memory with grow_pool, without the right to grow it."""
    process = LiveKernel().process()
    become_nobody()
    try:
        process.map(memory("hugetlb"), 2 * MIB, grow_pool=True).close()
    except MemoryUnavailable as error:
        return str(error)
    return "grown"


def leave_a_swap_file(directory: str) -> None:
    """Die with it."""
    SwapFile([directory])
    os.kill(os.getpid(), signal.SIGKILL)


def swap_as_nobody() -> str:
    """Swap space without the right to add it."""
    become_nobody()
    try:
        SwapFile(["/tmp", "/var/tmp"]).close()
    except MemoryUnavailable as error:
        return str(error)
    return "added, or there already"


def open_without_a_free_descriptor() -> dict[str, Any]:
    """Open with `spare` descriptors left, for each number that is too small, then with enough."""
    used = max(descriptors()) + 1
    while len(descriptors()) < used:
        os.dup(0)
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (used, hard))
    refusal = ""
    try:
        LiveUserfaultfd.open().close()
    except OpenRefused as error:
        refusal = str(error)
    memory_refusal = ""
    try:
        LiveKernel().process().map(memory("shmem"), PAGE)
    except MemoryUnavailable as error:
        memory_refusal = str(error)
    resource.setrlimit(resource.RLIMIT_NOFILE, (used + 4, hard))
    return {"open": refusal, "memory": memory_refusal, "left": len(descriptors()) - used}


# --- clients that hand their userfaultfd to the test --------------------------------------------


def die_with_registered_memory(channel: int) -> bool:
    """Register two pages, send the userfaultfd, end when told to."""
    with socket.socket(fileno=channel) as test:
        mapping, uffd = _registered(2, Feature(0))
        _send(test, uffd, mapping)
        test.recv(1)
    return True


def fork_with_events(channel: int) -> list[int]:
    """Fork; the child reads page 1 through the context of the event, and says what it found."""
    with socket.socket(fileno=channel) as test:
        mapping, uffd = _registered(2, Feature.EVENT_FORK)
        _send(test, uffd, mapping)
        uffd.close()
        reader, writer = os.pipe()
        if os.fork() == 0:
            os.write(writer, libc.read_memory(mapping.address + PAGE, PAGE))
            os._exit(0)
        os.close(writer)
        with os.fdopen(reader, "rb") as found:
            data = found.read()
        os.wait()
    return numbers(data)


def fork_without_events(channel: int) -> list[int]:
    """Fork without EVENT_FORK: the child reads what no longer is registered."""
    with socket.socket(fileno=channel) as test:
        mapping, uffd = _registered(1, Feature(0))
        _send(test, uffd, mapping)
        reader, writer = os.pipe()
        if os.fork() == 0:
            os.write(writer, libc.read_memory(mapping.address, PAGE))
            os._exit(0)
        os.close(writer)
        with os.fdopen(reader, "rb") as found:
            data = found.read()
        os.wait()
    return numbers(data)


def _registered(count: int, features: Feature) -> tuple[LiveMapping, LiveUserfaultfd]:
    process = LiveKernel().process()
    mapping = process.map(memory("anon"), count * PAGE)
    uffd = process.userfaultfd(features)
    uffd.register(mapping.address, mapping.length, Mode.MISSING)
    return mapping, uffd


def _send(test: socket.socket, uffd: LiveUserfaultfd, mapping: LiveMapping) -> None:
    socket.send_fds(test, [mapping.address.to_bytes(8, "little")], [uffd.fileno()])


# --- signals -------------------------------------------------------------------------------------


def touch_poison(name: str) -> int:
    """The signal that ends a process which touches a poisoned page."""
    process = LiveKernel().process()
    share = PoolShare(2 * MIB, 1, grow=True)  # held here, since the one that dies cannot
    try:
        child = os.fork()
        if child == 0:
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
            wanted = memory(name)
            mapping = process.map(wanted, wanted.page_size)
            uffd = process.userfaultfd()
            uffd.register(mapping.address, mapping.length, Mode.MISSING)
            uffd.poison(mapping.address, mapping.length)
            libc.read_memory(mapping.address, 1)
            os._exit(0)
        return os.WTERMSIG(os.waitpid(child, 0)[1])
    finally:
        share.close()


def touch_poison_of_the_parent(name: str) -> dict[str, int]:
    """Poison a page, fork, and have the child touch it: by which signal it ended, and how."""
    process = LiveKernel().process()
    mapping = process.map(memory(name), PAGE)
    uffd = process.userfaultfd()
    uffd.register(mapping.address, mapping.length, Mode.MISSING)
    uffd.poison(mapping.address, mapping.length)
    child = os.fork()
    if child == 0:
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        libc.read_memory(mapping.address, 1)
        os._exit(0)
    status = os.waitpid(child, 0)[1]
    return {"signal": os.WTERMSIG(status), "exited": os.WIFEXITED(status)}


def touch_with_sigbus_feature() -> int:
    """Touch a missing page of a context with the SIGBUS feature."""
    process = LiveKernel().process()
    mapping = process.map(memory("anon"), PAGE)
    child = os.fork()
    if child == 0:
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        uffd = process.userfaultfd(Feature.SIGBUS)
        uffd.register(mapping.address, PAGE, Mode.MISSING)
        libc.read_memory(mapping.address, 1)
        os._exit(0)
    return os.WTERMSIG(os.waitpid(child, 0)[1])


# --- the hugetlb pool ----------------------------------------------------------------------------


def grow_and_shrink(rounds: int, count: int) -> int:
    """Map, write and unmap huge pages again and again, growing the pool each time."""
    process = LiveKernel().process()
    for turn in range(rounds):
        kind = memory("hugetlb" if turn % 2 else "hugetlb-private")
        mapping = process.map(kind, count * kind.page_size, grow_pool=True)
        try:
            for at in range(count):
                libc.write_memory(mapping.address + at * kind.page_size, b"mine")
        finally:
            mapping.close()
    return read_pool(2 * MIB).page_size
