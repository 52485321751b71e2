"""In which order pages are taken out of memory: what is recorded, what is done."""

from __future__ import annotations

import contextlib
import errno
import os
import threading
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from helpers.waiting import wait_until
from userfault.pager.core.actions import Evict, Spill
from userfault.pager.core.core import MappingCore
from userfault.pager.core.plan import Plan
from userfault.pager.core.policy import Policy
from userfault.pager.core.states import CLEAN, EVICTING, NAMES, PRESENT, SPILLING, Pages
from userfault.pager.drivers.serving.evicting import Evictor

PAGE = 4096
PAGES = 64


class Scene:
    """A mapping of clean pages whose driver notes what is done, and how the first page stood."""

    def __init__(self, state: int, *, threads: bool = False) -> None:
        plan = Plan(0, PAGE, Policy(), shared=True, resident=PAGES, evicts=True, spills=True)
        self.core = MappingCore(plan, Pages(bytearray([state]) * PAGES, PAGES))
        self.log: list[str] = []
        self.refused = 0
        self.full = False
        self.go_on = threading.Event()
        self.go_on.set()
        self.handlers: dict[int, Callable[[], None]] = {}
        owner = SimpleNamespace(say=self.log.append)
        spill = SimpleNamespace(write=lambda *_: self._written())
        served: Any = SimpleNamespace(page_size=PAGE, owner=owner, spill=spill, lost="")
        uffd = SimpleNamespace(writeprotect=lambda *_, **__: self.note("protect"))
        self.context: Any = SimpleNamespace(core=self.core, served=served, uffd=uffd)
        calls: Any = SimpleNamespace(
            threads=threads,
            punch=lambda *_: self._punch(),
            held=lambda *_: memoryview(b""),
            bell=lambda: os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC),
            hear=_hear,
            close=os.close,
        )
        journal: Any = SimpleNamespace(forget_fill=lambda: self.note("forget the fill"))
        loop: Any = SimpleNamespace(
            watch=self.handlers.__setitem__,
            forget=self.handlers.pop,
            lifted=contextlib.nullcontext,
        )
        acting: Any = SimpleNamespace(
            budgets=[served], perform=lambda _: None, costs=lambda _: contextlib.nullcontext()
        )
        self.evictor = Evictor(loop, journal, calls, acting)

    @property
    def state(self) -> str:
        return NAMES[self.core.pages.states[0]]

    def note(self, what: str) -> None:
        self.log.append(f"{what}: {self.state}")

    def _punch(self) -> None:
        self.go_on.wait(30)
        self.note("hole")
        if self.refused:
            raise OSError(self.refused, "refused")

    def _written(self) -> None:
        self.note("write")
        if self.full:
            raise OSError(errno.ENOSPC, "full")

    def evict(self, count: int) -> None:
        self.core.pages.move(0, count, EVICTING)
        self.evictor.evict(self.context, Evict(0, count))


def _hear(bell: int) -> None:
    with contextlib.suppress(BlockingIOError):
        os.eventfd_read(bell)


def test_the_record_of_the_last_fill_is_void_before_pages_go() -> None:
    """A successor would take for filled what that fill brought in, and what has gone since."""
    scene = Scene(CLEAN)
    scene.evict(4)
    assert scene.log == ["forget the fill: evicting", "hole: evicting"]
    assert scene.state == "missing"


def test_a_hole_that_is_refused_leaves_the_pages_clean_and_is_told() -> None:
    scene = Scene(CLEAN)
    scene.refused = errno.EPERM
    scene.evict(4)
    assert scene.state == "clean"
    assert "EPERM" in scene.log[-1]


def test_a_spilled_page_is_protected_then_written_then_said_then_taken_out() -> None:
    scene = Scene(PRESENT)
    scene.core.pages.move(0, 4, SPILLING)
    scene.evictor.spill(scene.context, Spill(0, 4, 0))
    assert scene.log == [
        "forget the fill: spilling",
        "protect: spilling",
        "write: spilling",
        "hole: spilled",
    ]


def test_a_full_spill_file_leaves_the_pages_in_memory() -> None:
    scene = Scene(PRESENT)
    scene.full = True
    scene.core.pages.move(0, 4, SPILLING)
    scene.evictor.spill(scene.context, Spill(0, 4, 0))
    assert scene.state == "present"
    assert not any(line.startswith("hole") for line in scene.log)


@pytest.fixture
def threaded() -> Any:
    scene = Scene(CLEAN, threads=True)
    yield scene
    scene.go_on.set()
    scene.evictor.close()


def test_a_thread_makes_large_holes_and_the_loop_hears_of_it(threaded: Scene) -> None:
    threaded.go_on.clear()
    threaded.evict(PAGES)
    assert threaded.state == "evicting"
    threaded.go_on.set()
    wait_until(lambda: bool(threaded.log) and threaded.log[-1].startswith("hole"))
    (hear,) = threaded.handlers.values()

    def heard() -> bool:
        hear()
        return threaded.state == "missing"

    wait_until(heard)


def test_an_event_is_applied_when_no_hole_is_under_way(threaded: Scene) -> None:
    """A page that the client drops may be written at once: a hole made then would take that."""
    threaded.go_on.clear()
    threaded.evict(PAGES)
    threading.Timer(0.05, threaded.go_on.set).start()
    threaded.evictor.settle()
    assert threaded.log[-1] == "hole: evicting"
    assert threaded.state == "missing"


def test_before_a_handover_no_hole_is_under_way(threaded: Scene) -> None:
    threaded.go_on.clear()
    threaded.evict(PAGES)
    threading.Timer(0.05, threaded.go_on.set).start()
    threaded.evictor.rest()
    assert threaded.log[-1] == "hole: evicting"
    assert threaded.state == "evicting"  # as the successor finds it: it takes them out again
