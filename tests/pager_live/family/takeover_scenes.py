"""Clients whose pager is killed, for test_takeover.py; each runs in a process of its own."""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import threading
import time
from pathlib import Path
from typing import Any

import userfault
from helpers.family import member
from helpers.pages import PAGE, numbers
from userfault import LazyMemory, Policy, lazy
from userfault.linux import libc
from userfault.linux.pidfd import wait

DEMAND = Policy(background=False)
_COMPLETE_S = 20.0


def kill_at_once(processes: dict[str, int], roles: list[str]) -> None:
    """In one instant: nobody runs between two of the kills."""
    for pid in processes.values():
        os.kill(pid, signal.SIGSTOP)
    for role in roles:
        process = os.pidfd_open(processes[role])
        signal.pidfd_send_signal(process, signal.SIGKILL)
        wait(process, 10)
        os.close(process)
    for role in processes.keys() - set(roles):
        os.kill(processes[role], signal.SIGCONT)


def complete_again(pager: userfault.Pager, dead: set[int]) -> bool:
    """Whether three processes run again, none of them one of the dead."""
    deadline = time.monotonic() + _COMPLETE_S
    while time.monotonic() < deadline:
        pids = set(pager.processes().values()) - {0}
        if len(pids) == 3 and not pids & dead:
            return True
        time.sleep(0.01)
    return False


def at(mapped: LazyMemory, page: int) -> int:
    return numbers(libc.read_memory(mapped.address + page * PAGE, PAGE))[0]


def killed(image: str, memory: str, roles: list[str]) -> dict[str, Any]:
    """Some of the family are killed in one instant; the memory stays right, the family heals."""
    with userfault.Pager() as pager, lazy(image, memory=memory, pager=pager, policy=DEMAND) as held:
        before = at(held, 3)
        processes = pager.processes()
        kill_at_once(processes, roles)
        found = [at(held, page) for page in (3, 4, 700)]
        healed = complete_again(pager, {processes[role] for role in roles})
        held.complete(timeout=30)
        right = numbers(held[: 2048 * PAGE]) == list(range(1, 2049))
        return {"before": before, "found": found, "healed": healed, "right": right}


def all_killed_under_a_fault(image: str) -> None:
    """Ends by SIGBUS: a thread waits, and nobody is left."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with userfault.Pager() as pager, lazy(image, pager=pager, policy=DEMAND) as held:
        processes = pager.processes()
        for pid in processes.values():
            os.kill(pid, signal.SIGSTOP)
        thread = threading.Thread(target=libc.read_memory, args=(held.address, 8), daemon=True)
        thread.start()
        place = Path(f"/proc/self/task/{thread.native_id}/wchan")
        while place.read_text() != "handle_userfault":
            time.sleep(0.001)
        for pid in processes.values():
            os.kill(pid, signal.SIGKILL)
        thread.join()


def waits_in_a_fault(image: str, report: str) -> None:
    """A client that the test kills: its family is stopped, so it waits."""
    pager = userfault.Pager()
    held = lazy(image, pager=pager, policy=DEMAND)
    processes = pager.processes()
    for pid in processes.values():
        os.kill(pid, signal.SIGSTOP)
    Path(report).write_text(" ".join(map(str, processes.values())))
    libc.read_memory(held.address, 8)


def reads_on_after(image: str, report: str) -> list[int]:
    """Tells its processes, waits for the test to remove the report, reads everything."""
    with userfault.Pager() as pager, lazy(image, pager=pager, policy=DEMAND) as held:
        found = [at(held, 0)]
        Path(report).write_text(" ".join(map(str, pager.processes().values())))
        while Path(report).exists():
            time.sleep(0.01)
        return found + [at(held, page) for page in range(1, 64)]


def with_little_room(image: str) -> dict[str, int]:
    """Files may grow only so far (the journal is one): an error with its cause, or service."""
    told: dict[str, int] = {}
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    for shift in range(10, 22):
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << shift, hard))
        try:
            with lazy(image, policy=DEMAND) as held:
                what = "served" if at(held, 7) == 8 else "wrong"
        except userfault.UserfaultError as error:
            what = type(error).__name__ if error.cause else "without cause"
        told[what] = told.get(what, 0) + 1
    return told


def takeover_without_descriptors(image: str) -> dict[str, Any]:
    """The family's table is full when its worker and its supervisor are killed."""
    pager = userfault.Pager()
    pids = pager.processes().values()
    held = [lazy(image, pager=pager, policy=DEMAND)]
    used = len(os.listdir(f"/proc/{pager.processes()['worker']}/fd"))
    for pid in pids:
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (used + 12, used + 12))
    refused = ""
    with contextlib.suppress(RecursionError):
        while not refused:
            try:
                held.append(lazy(image, pager=pager, policy=DEMAND))
            except userfault.UserfaultError as error:
                refused = error.cause
    found: list[bool] = []
    for role in ("worker", "supervisor", "worker"):
        victim = member(pager, role)
        os.kill(victim, signal.SIGKILL)
        found += [at(each, len(found) + 5) == len(found) + 6 for each in held]
        complete_again(pager, {victim})
    for each in held:
        each.close()
    pager.close()
    return {"refused": bool(refused), "right": all(found), "mappings": len(held)}


def clock_jumps(image: str) -> dict[str, Any]:
    """CLOCK_REALTIME is set a day back and forth while faults are served and a worker is killed."""
    now, since = time.time(), time.monotonic()
    found = []
    with userfault.Pager() as pager, lazy(image, pager=pager, policy=DEMAND) as held:
        try:
            for page, jump in enumerate((-86400, 86400)):
                time.clock_settime(time.CLOCK_REALTIME, now + jump)
                found.append(at(held, 200 * page))
                os.kill(member(pager, "worker"), signal.SIGKILL)
                found.append(at(held, 200 * page + 100))
        except PermissionError:
            return {"may": False}
        finally:
            with contextlib.suppress(PermissionError):
                time.clock_settime(time.CLOCK_REALTIME, now + time.monotonic() - since)
        return {"may": True, "found": found, "takeovers": pager.takeovers}


def workers_that_crash(image: str) -> None:
    """Each worker ends by SIGSEGV, as by a fault in a library, and the next one too."""
    with lazy(image, policy=DEMAND) as mapped:
        pager = mapped._parts.pager
        victim = 0
        while True:
            victim = member(pager, "worker", but=victim)
            os.kill(victim, signal.SIGSEGV)
