"""What a test cannot do to its own process: scenes for `helpers.child`.

Each returns what the test asserts on, or ends by a signal.
"""

from __future__ import annotations

import contextlib
import ctypes
import mmap
import os
import re
import resource
import signal
import struct
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import userfault
from helpers.child import become_nobody
from helpers.pages import PAGE, numbers
from pager_live import functions
from userfault import Policy, lazy
from userfault.linux import pidfd

DEMAND = Policy(background=False, retries=1)


_TOUCHING = 8  # threads
_CAP_DAC_READ_SEARCH = 2
_PR_SET_KEEPCAPS, _PR_CAP_AMBIENT, _PR_CAP_AMBIENT_RAISE = 8, 47, 2
_CAPABILITY_VERSION_3 = 0x20080522
_CLONE_NEWPID = 0x20000000


def become_nobody_who_may_search() -> None:
    """Drop root, but keep the right to look into folders: the interpreter may lie in root's home.

    That right opens no device for writing, so /dev/userfaultfd stays closed.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    numbers = [ctypes.c_ulong(0)] * 3
    assert not libc.prctl(_PR_SET_KEEPCAPS, ctypes.c_ulong(1), *numbers)
    become_nobody()
    bit = 1 << _CAP_DAC_READ_SEARCH
    header = struct.pack("=Ii", _CAPABILITY_VERSION_3, 0)
    assert not libc.capset(header, struct.pack("=6I", bit, bit, bit, 0, 0, 0))
    raised = [ctypes.c_ulong(_PR_CAP_AMBIENT_RAISE), ctypes.c_ulong(_CAP_DAC_READ_SEARCH)]
    assert not libc.prctl(_PR_CAP_AMBIENT, *raised, *numbers[:2])


def touch_in_child(mapped: userfault.LazyMemory, page: int) -> int:
    """What becomes of a forked child that touches a page: its wait status."""
    child = os.fork()
    if not child:
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        ctypes.string_at(mapped.address + page * PAGE, 1)
        os._exit(0)
    return os.waitpid(child, 0)[1]


def poisoned_access() -> dict[str, Any]:
    """A page whose source fails is poisoned: a system call on it gets EFAULT, and is told."""
    source = userfault.function(functions.bad_page, 64 * PAGE, bad=5)
    with lazy(source, policy=DEMAND) as mapped:
        good = numbers(mapped[4 * PAGE : 5 * PAGE])
        _, write = os.pipe()
        found = ""
        try:
            os.write(write, (ctypes.c_char * 8).from_address(mapped.address + 5 * PAGE))
        except OSError as error:
            found = str(error)
        neighbour = numbers(mapped[6 * PAGE : 7 * PAGE])
        try:
            mapped.check()
            told = ""
        except userfault.SourceError as error:
            told = str(error)
        states = mapped.statistics().states
    return {"good": good, "errno": found, "neighbour": neighbour, "told": told, "states": states}


def touch_bad_page() -> None:
    """Ends by SIGBUS."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    source = userfault.function(functions.bad_page, 64 * PAGE, bad=5)
    with lazy(source, policy=DEMAND) as mapped:
        mapped[5 * PAGE]


def touch_bad_page_kill() -> None:
    """Ends by SIGKILL: the policy says so."""
    source = userfault.function(functions.bad_page, 64 * PAGE, bad=5)
    with lazy(source, policy=Policy(background=False, retries=0, on_failure="kill")) as mapped:
        mapped[5 * PAGE]


def killed_with_faults_pending(report: str) -> None:
    """A client whose threads wait for a source that hangs; the test kills it."""
    source = userfault.function(functions.slow_page, 64 * PAGE, slow=5, seconds=600)
    mapped = lazy(source, policy=DEMAND)
    Path(report).write_text(str(mapped.statistics().pager_pid))
    ctypes.CDLL(None).memchr(ctypes.c_void_p(mapped.address + 5 * PAGE), 0, 1)


def worker_of(pager: userfault.Pager) -> int:
    """The worker's process id as seen from here, whatever namespace it was born into."""
    first = pager._family.first[0]
    while not (known := pager.processes()["worker"]):
        time.sleep(0.001)
    for child in Path(f"/proc/{first}/task/{first}/children").read_text().split():
        status = Path(f"/proc/{child}/status").read_text()
        if re.search(rf"^NSpid:.*\b{known}$", status, re.MULTILINE):
            return int(child)
    raise LookupError(f"no worker {known} among the children of {first}")


def stop_family(pager: userfault.Pager) -> list[int]:
    """Stop every process of the pager, so that none can replace another; their ids."""
    members = list(pager.processes().values())
    for pid in members:
        os.kill(pid, signal.SIGSTOP)
    return members


def kill_all(members: list[int]) -> None:
    for pid in members:
        os.kill(pid, signal.SIGKILL)


def fault_after_the_pagers_death(image: str) -> None:
    """The life line ends a client whose pager was killed while it waited."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    mapped = lazy(image, policy=DEMAND)
    members = stop_family(mapped._parts.pager)
    threading.Timer(0.3, kill_all, (members,)).start()
    ctypes.CDLL(None).memchr(ctypes.c_void_p(mapped.address + 5 * PAGE), 0, 1)


def forked_child_of_ordinary_memory(image: str) -> int:
    """Without fork=True the child does not inherit the memory."""
    with lazy(image, policy=DEMAND) as mapped:
        mapped[0]
        return touch_in_child(mapped, 0)


def forked_children(image: str, memory: str) -> list[list[int]]:
    """With fork=True a child reads the source, also pages that the parent never touched."""
    found = []
    with lazy(image, memory=memory, fork=True, writable=True, policy=DEMAND) as mapped:
        assert numbers(mapped[:PAGE]) == [1]
        read, write = os.pipe()
        child = os.fork()
        if not child:
            seen = [numbers(mapped[n * PAGE : (n + 1) * PAGE])[0] for n in (0, 7, 1900)]
            os.write(write, bytes(str(seen), "ascii"))
            os._exit(0)
        found.append(numbers(mapped[8 * PAGE : 9 * PAGE]))
        os.waitpid(child, 0)
        found.append([int(n) for n in os.read(read, 100).decode().strip("[]").split(",")])
        found.append(numbers(mapped[7 * PAGE : 8 * PAGE]))
    return found


def as_nobody(image: str) -> dict[str, Any]:
    """Without privilege: user-mode only; system calls on missing pages fail until complete()."""
    with contextlib.ExitStack() as stack:
        file = stack.enter_context(open(image, "rb"))
        become_nobody_who_may_search()
        mapped = stack.enter_context(lazy(file, policy=DEMAND))
        first = numbers(mapped[:PAGE])
        _, write = os.pipe()
        view = (ctypes.c_char * 8).from_address(mapped.address + 9 * PAGE)
        try:
            os.write(write, view)
            before = ""
        except OSError as error:
            before = error.strerror or ""
        mapped.complete()
        after = os.write(write, view)
        return {
            "first": first,
            "limited": mapped.statistics().user_mode_only,
            "before": before,
            "after": after,
            "pid_gone": _ends(mapped),
        }


def _ends(mapped: userfault.LazyMemory) -> bool:
    process = os.pidfd_open(mapped.statistics().pager_pid)
    try:
        mapped.close()
        return pidfd.wait(process, 30)
    finally:
        os.close(process)


def without_descriptors(image: str) -> dict[str, Any]:
    """Descriptors run out at every step of lazy(): each time a clear error and nothing left."""
    told: dict[str, int] = {}
    causes: list[str] = []
    with lazy(image) as mapped:  # everything imported, every lazy thing made
        mapped.complete()
    before = len(os.listdir("/proc/self/fd"))
    hogs: list[int] = []
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (64, hard))
    with contextlib.suppress(OSError):
        while True:
            hogs.append(os.open("/dev/null", os.O_RDONLY))
    leaked = 0
    for _ in range(25):
        free = len(hogs)
        try:
            with lazy(image) as mapped:
                mapped.complete()
                told["served"] = told.get("served", 0) + 1
        except userfault.UserfaultError as error:
            told[type(error).__name__] = told.get(type(error).__name__, 0) + 1
            causes.append(error.cause)
        leaked += len(hogs) - free
        os.close(hogs.pop())
    for fd in hogs:
        os.close(fd)
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return {"told": told, "causes": causes, "leaked": len(os.listdir("/proc/self/fd")) - before}


def interrupted(image: str, report: str) -> None:
    """A program that the user interrupts by Ctrl-C inside the block, with a view alive."""
    source = userfault.function(functions.slow_page, 64 * PAGE, slow=60, seconds=0.2)
    del image
    with lazy(source, policy=DEMAND) as mapped:
        view = memoryview(mapped)
        pager = mapped.statistics().pager_pid
        try:
            Path(report).write_text(str(pager))  # from here on the signal may come
            time.sleep(60)
        finally:
            print(view.nbytes)


def keeps_views(image: str, on_exit: str) -> dict[str, Any]:
    """Leaving the block with a view alive: the view goes on showing the source, or poison."""
    with lazy(image, policy=Policy(background=False, on_exit=on_exit)) as mapped:
        view = memoryview(mapped)
        mapped[3 * PAGE]
        pager = mapped.statistics().pager_pid
        address = mapped.address
    right = None
    if on_exit == "complete":
        right = numbers(bytes(view[: 2048 * PAGE])) == list(range(1, 2049))
        where = "right"
    else:
        _, write = os.pipe()
        try:
            os.write(write, (ctypes.c_char * 8).from_address(address + 9 * PAGE))
            where = "readable"
        except OSError as error:
            where = error.strerror or ""
        right = view[3 * PAGE] == 4
    still_mapped = f"{address:x}-" in Path("/proc/self/maps").read_text()
    del view, mapped
    gone = f"{address:x}-" not in Path("/proc/self/maps").read_text()
    return {
        "right": right,
        "where": where,
        "still_mapped": still_mapped,
        "gone": gone,
        "pager_gone": not Path(f"/proc/{pager}").exists(),
    }


def multiprocessing_child_is_refused(image: str) -> int:
    """What docs say of multiprocessing: a forked worker that touches the memory gets SIGSEGV."""
    import multiprocessing

    context = multiprocessing.get_context("fork")
    with lazy(image, policy=DEMAND) as mapped:
        process = context.Process(target=_read_first, args=(mapped,))
        process.start()
        process.join()
        return process.exitcode or 0


def _read_first(mapped: mmap.mmap) -> None:
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    mapped[0]


def fork_as_nobody(image: str) -> str:
    """fork=True takes a capability."""
    with open(image, "rb") as file:
        become_nobody()
        try:
            lazy(file, fork=True).close()
        except userfault.UserfaultError as error:
            return str(error)
    return ""


def many_children(image: str, count: int) -> list[int]:
    """How many contexts the pager serves some time after `count` children have come and gone, and
    how many descriptors it has more than before.
    """
    with lazy(image, fork=True, policy=DEMAND) as mapped:
        mapped[0]
        held = f"/proc/{worker_of(mapped._parts.pager)}/fd"
        before = len(os.listdir(held))
        for page in range(count):
            assert os.WIFEXITED(touch_in_child(mapped, page))
        deadline = time.monotonic() + 30
        contexts, more = count, 1
        while (contexts > 1 or more) and time.monotonic() < deadline:
            time.sleep(0.1)
            answer = mapped._parts.ask()
            contexts = answer.contexts if answer else 0
            # It may have had one open for a moment when it was looked at first.
            more = max(len(os.listdir(held)) - before, 0)
        return [contexts, more]


def views_after_the_pagers_death(image: str) -> dict[str, Any]:
    """The pager is killed inside the block; a view outlives it."""
    signal.signal(signal.SIGBUS, lambda *_: None)  # the life line, which would end us
    told = False
    with lazy(image, policy=DEMAND) as mapped:
        view = memoryview(mapped)
        mapped[3 * PAGE]
        address = mapped.address
        kill_all(stop_family(mapped._parts.pager))
        try:
            mapped.wait(20)
        except userfault.PagerError:
            told = True
    _, write = os.pipe()
    try:
        os.write(write, (ctypes.c_char * 8).from_address(address + 9 * PAGE))
        rest = "readable"
    except OSError as error:
        rest = error.strerror or ""
    return {"filled": numbers(bytes(view[3 * PAGE : 4 * PAGE])), "rest": rest, "told": told}


def child_killed_with_faults_waiting(image: str) -> list[int]:
    """A forked child whose threads all wait is killed; the parent is served on."""
    with tempfile.TemporaryDirectory() as folder, lazy(image, fork=True, policy=DEMAND) as mapped:
        held = f"{folder}/pager"
        for _ in range(5):
            child = os.fork()
            if not child:
                while not os.path.exists(held):
                    time.sleep(0.001)
                _touch_by_threads(mapped.address)
            pager = mapped._parts.pager.processes()["worker"]
            os.kill(pager, signal.SIGSTOP)
            Path(held).touch()
            while sleepers(child) < _TOUCHING:
                time.sleep(0.001)
            os.unlink(held)
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            os.kill(pager, signal.SIGCONT)
        return numbers(mapped[100 * PAGE : 103 * PAGE])


def sleepers(pid: int) -> int:
    """How many threads of a process wait in faults."""
    places = Path(f"/proc/{pid}/task").glob("*/wchan")
    return sum(place.read_text() == "handle_userfault" for place in places)


def _touch_by_threads(address: int) -> None:
    memchr = ctypes.CDLL(None).memchr
    for page in range(_TOUCHING):
        where = ctypes.c_void_p(address + (200 + 7 * page) * PAGE)
        threading.Thread(target=memchr, args=(where, 0, 1), daemon=True).start()
    time.sleep(60)


def forked_before_it_was_killed(report: str, gate: str) -> None:
    """A client and its forked child, which waits for a page of a source that is shut.

    The test kills first the one, then the other.
    """
    source = userfault.function(functions.announced, 64 * PAGE, gate=gate)
    mapped = lazy(source, fork=True, policy=DEMAND)
    child = os.fork()
    if not child:
        ctypes.CDLL(None).memchr(ctypes.c_void_p(mapped.address + 5 * PAGE), 0, 1)
    processes = mapped._parts.pager.processes()
    Path(f"{report}.new").write_text(" ".join(map(str, [child, *processes.values()])))
    os.rename(f"{report}.new", report)
    signal.pause()


def fork_with_a_function_source() -> list[list[int]]:
    """Parent and child have a fetch under way at the same time, each its first."""
    source = userfault.function(functions.slow, 64 * PAGE, seconds=0.3)
    with lazy(source, fork=True, policy=DEMAND) as mapped:
        read, write = os.pipe()
        if not os.fork():
            os.write(write, bytes(numbers(mapped[20 * PAGE : 21 * PAGE])))
            os._exit(0)
        ours = numbers(mapped[10 * PAGE : 11 * PAGE])
        theirs = list(os.read(read, 8))
        os.wait()
    return [ours, theirs]


def pager_in_another_pid_namespace(image: str) -> dict[str, Any]:
    """The pager is born into a new pid namespace: thread ids mean nothing to it."""
    before = os.sched_getaffinity(0)
    if ctypes.CDLL(None, use_errno=True).unshare(_CLONE_NEWPID):
        raise OSError(ctypes.get_errno(), "unshare")
    one = Policy(background=False, window_bytes=PAGE)
    source = Path(image).read_bytes()  # in memory: a disk that answers soon is polled for, too
    with lazy(source, policy=one) as mapped:
        os.sched_setaffinity(0, {min(before)})
        right = all(numbers(mapped[n * PAGE : (n + 1) * PAGE]) == [n + 1] for n in range(1000))
        return {
            "right": right,
            "free": os.sched_getaffinity(worker_of(mapped._parts.pager)) == before,
            "polled": mapped.statistics().pager_polled_s,
        }
