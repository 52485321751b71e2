"""Scenes of faults that wait for too long, for `helpers.child`."""

from __future__ import annotations

import ctypes
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

import userfault
from helpers.pages import PAGE, numbers
from pager_live import functions
from userfault import LazyMemory, Policy, lazy
from userfault.pager.core.states import NAMES

DEADLINE_S = 0.5
PAGES = 64

_memchr = ctypes.CDLL(None).memchr  # releases the interpreter's lock while it waits


def touch(address: int) -> threading.Thread:
    """A thread that touches a page."""
    thread = threading.Thread(target=_memchr, args=(ctypes.c_void_p(address), 0, 1), daemon=True)
    thread.start()
    return thread


def until(condition: Callable[[], bool]) -> None:
    """Wait for it; TimeoutError after 20 s."""
    end = time.monotonic() + 20
    while not condition():
        if time.monotonic() > end:
            raise TimeoutError("it never came")
        time.sleep(0.01)


def gated(gate: str, policy: Policy, **options: Any) -> LazyMemory:
    """Page 5 is read once the file `gate` exists, all others at once."""
    return lazy(userfault.function(functions.gated, PAGES * PAGE, gate=gate, closed=5),
                policy=policy, **options)  # fmt: skip


def checked(mapped: LazyMemory) -> str:
    """What check() says."""
    try:
        mapped.check()
    except userfault.UserfaultError as error:
        return str(error)
    return ""


def waits_and_is_served(gate: str) -> dict[str, Any]:
    """A source that takes its time: reported, and served in the end."""
    with gated(gate, Policy(background=False, fault_deadline_s=DEADLINE_S)) as mapped:
        thread = touch(mapped.address + 5 * PAGE)
        until(lambda: mapped.statistics().waiting > 0)
        check = [checked(mapped)]
        waiting = [mapped.statistics().waiting]
        Path(gate).touch()
        thread.join()
        until(lambda: mapped.statistics().waiting == 0)
        time.sleep(2 * DEADLINE_S)
        check.append(checked(mapped))
        found = mapped.statistics()
        waiting.append(found.waiting)
        return {
            "check": check,
            "waiting": waiting,
            "address": mapped.address,
            "read": numbers(mapped[5 * PAGE : 6 * PAGE]),
            "overdue": msgspec.to_builtins(found.overdue),
        }


def many_wait(gate: str, count: int) -> dict[str, int]:
    """So many pages wait behind a source that answers nothing."""
    source = userfault.function(functions.gated, PAGES * PAGE, gate=gate, closed=-1)
    with lazy(source, policy=Policy(background=False, fault_deadline_s=DEADLINE_S)) as mapped:
        threads = [touch(mapped.address + page * PAGE) for page in range(count)]
        until(lambda: mapped.statistics().counters.overdue >= count)
        found = mapped.statistics()
        Path(gate).touch()
        for thread in threads:
            thread.join()
        return {"counted": found.counters.overdue, "listed": len(found.overdue)}


def prefetched(mapped: LazyMemory, page: int) -> list[int]:
    """A page read without a fault: on a busy machine one might be late, and given up."""
    mapped.prefetch(page * PAGE, (page + 1) * PAGE)
    until(lambda: NAMES[mapped.page_states[page]] == "present")
    return numbers(mapped[page * PAGE : (page + 1) * PAGE])


def poisoned_by_policy(gate: str) -> dict[str, Any]:
    """A read that never ends, whose own deadline is far: the watchdog gives its page up."""
    policy = Policy(background=False, fault_deadline_s=DEADLINE_S, on_overdue="poison")
    with gated(gate, policy) as mapped:
        neighbours = [prefetched(mapped, 4)]
        _, write = os.pipe()
        code = 0
        try:
            os.write(write, (ctypes.c_char * 8).from_address(mapped.address + 5 * PAGE))
        except OSError as error:
            code = error.errno or 0
        neighbours.append(prefetched(mapped, 6))
        states = mapped.statistics().states
        return {
            "errno": code,
            "neighbours": neighbours,
            "states": states,
            "check": checked(mapped),
        }


def ended_by_policy(gate: str) -> None:
    """Ends by SIGKILL."""
    policy = Policy(background=False, fault_deadline_s=DEADLINE_S, on_overdue="kill")
    with gated(gate, policy) as mapped:
        touch(mapped.address + 5 * PAGE).join()
