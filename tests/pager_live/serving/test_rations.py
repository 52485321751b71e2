"""A share of a CPU for each client: who has spent it is not read for a while, others are."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, cast

import pytest

from pager_live.serving.test_loop import Nothing
from userfault.pager.core.placing import ANY, Placing
from userfault.pager.drivers.serving.loop import Loop
from userfault.pager.drivers.serving.rations import Rations

SHARE = 0.5
COST_S = 0.03  # of a CPU, each message of the greedy one
SAVED_S = 0.02


class Owner:
    """A process."""


@dataclass(eq=False)
class One:
    """A client with something to read as long as there is anybody in `out`."""

    loop: Loop
    cost: float
    fd: int = field(default_factory=lambda: os.eventfd(1, os.EFD_NONBLOCK))
    served: Any = None
    reads: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.served = self
        self.owner = Owner()


@pytest.fixture
def loop() -> Iterator[Loop]:
    made = Loop(Placing(ANY))
    yield made
    made.close()


@pytest.fixture
def client(loop: Loop) -> Iterator[Callable[[float], One]]:
    with contextlib.ExitStack() as closing:

        def made(cost: float) -> One:
            one = One(loop, cost)
            closing.callback(os.close, one.fd)
            return one

        yield made


def test_who_has_spent_its_share_waits_and_nobody_else_does(
    loop: Loop, client: Callable[[float], One]
) -> None:
    cpu = [0.0]
    rations = Rations(loop, SHARE, spent=lambda: cpu[0])
    greedy, modest = client(COST_S), client(0.0)
    out = [1]
    between = []  # reads of the modest one, when the greedy one is read

    def read(context: Any) -> None:
        one = cast(One, context)
        cpu[0] += one.cost
        one.reads.append(time.monotonic())
        if one is greedy:
            between.append(len(modest.reads))
        if len(greedy.reads) == 4:
            out.clear()

    began = time.monotonic()
    rations.watch(cast(Any, greedy), read)
    rations.watch(cast(Any, modest), read)
    loop.run(out, Nothing())
    took = time.monotonic() - began

    assert took * SHARE >= 3 * COST_S - SAVED_S, "the fourth is read once the third is paid for"
    assert between[-1] - between[1] > 2, "the other one was read all the time"


def test_processes_that_fork_have_one_share(loop: Loop, client: Callable[[float], One]) -> None:
    rations = Rations(loop, SHARE, spent=iter(range(100)).__next__)
    parent, child = client(0), client(0)
    child.served = parent
    read: list[One] = []
    for each in (parent, child):
        rations.watch(cast(Any, each), lambda context: read.append(cast(One, context)))

    class Once(Nothing):
        """Ends the loop after so many rounds."""

        rounds = 20

        def __bool__(self) -> bool:
            self.rounds -= 1
            if self.rounds == 0:
                out.clear()
            return True

    out = [1]
    loop.run(out, Once())

    assert len(read) == 1, "a second of a CPU was spent for the first: for both"


def test_who_has_gone_is_not_read_again(loop: Loop, client: Callable[[float], One]) -> None:
    rations = Rations(loop, SHARE, spent=iter(range(100)).__next__)
    one = client(0)
    rations.watch(cast(Any, one), lambda _: None)
    for _ in range(2):
        loop._handlers[one.fd]()  # the second finds the share spent
    assert rations.next_time() is not None

    rations.discard(cast(Any, one))

    assert rations.next_time() is None
    rations.tick(time.monotonic() + 3600)
    assert one.fd not in loop._handlers
