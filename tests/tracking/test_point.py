"""Who writes faster than that can be copied is held for a little at a time."""

from __future__ import annotations

import mmap
import os

import pytest

from tracking.memories import MIB, address_of, mapping
from userfault.api import point_main
from userfault.api.point_main import Copied, Wanted, _copied
from userfault.linux.written import Run

LENGTH = 12 * MIB


class Held:
    """In place of a process that is frozen: how much was copied while it stood still."""

    stops: list[int] = []  # noqa: RUF012  # of each stop

    def __init__(self, pid: int) -> None:
        assert pid == os.getpid()
        self.stops.append(0)

    def thaw(self) -> float:
        """For how long it was."""
        return 1.0


def test_no_stop_copies_much_and_the_last_bytes_of_all_pages_are_there(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Held, "stops", [])
    with mapping("anon", LENGTH) as memory:
        start = address_of(memory)
        everything: list[Run] = [(start, start + LENGTH)]
        told = [everything, everything, [(start, start + MIB)], [(start, start + 4096)]]

        def written(*_: object) -> list[Run]:
            memory[0] = 4 - len(told)  # after what is told now, before what is told next
            return told.pop(0)

        def add(self: point_main._Copy, runs: list[Run]) -> None:
            if Held.stops:
                Held.stops[-1] += sum(last - first for first, last in runs)
            copy_of(self, runs)

        copy_of = point_main._Copy.add
        monkeypatch.setattr(point_main._Copy, "add", add)
        monkeypatch.setattr(point_main, "_written", written)
        monkeypatch.setattr(point_main, "Frozen", Held)
        copied, content = _of(Wanted(os.getpid(), everything, [], [], []))
    assert Held.stops == [4 * MIB] * 6 + [MIB]
    assert (copied.stopped_s, copied.held_s) == (1.0, 7.0)
    last = {}
    at = 0
    for first, end in copied.runs:
        last[first] = content[at]
        at += end - first
    assert at == len(content)
    assert last[start] == 3


def _of(wanted: Wanted) -> tuple[Copied, bytes]:
    pagemap = os.open("/proc/self/pagemap", os.O_RDONLY)
    memory = os.open("/proc/self/mem", os.O_RDONLY)
    target = os.memfd_create("copy")
    try:
        copied = _copied(wanted, pagemap, memory, target, [])
        with mmap.mmap(target, 0, prot=mmap.PROT_READ) as held:
            return copied, held[:]
    finally:
        for fd in (pagemap, memory, target):
            os.close(fd)
