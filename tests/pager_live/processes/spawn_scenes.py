"""What test_spawn.py does in processes of its own."""

from __future__ import annotations

import contextlib
import json
import os
from pathlib import Path

import userfault
from helpers.family import member
from helpers.pages import PAGE, numbers
from pager_live import functions
from pager_live.scenes import worker_of
from userfault import Policy, lazy

DEMAND = Policy(background=False, retries=0)


def _descriptors(pid: int) -> dict[int, str]:
    found = {}
    for name in os.listdir(f"/proc/{pid}/fd"):
        with contextlib.suppress(OSError):
            found[int(name)] = os.readlink(f"/proc/{pid}/fd/{name}")
    return found


def _children(pid: int) -> list[int]:
    told = [Path(each).read_text() for each in Path(f"/proc/{pid}/task").glob("*/children")]
    return [int(each) for line in told for each in line.split()]


def processes_with(kept: list[str]) -> dict[str, list[str]]:
    """Every process of a pager that serves a function, with those of its descriptors that lead to
    what this one lets its children inherit."""
    with userfault.Pager() as pager:
        mapped = lazy(functions.numbered, length=2 * PAGE, pager=pager, policy=DEMAND)
        assert numbers(mapped[:]) == [1, 2]
        first = pager._family.first[0]
        family = {first, worker_of(pager), *_children(first)}
        called = {child for pid in family for child in _children(pid)} - family
        assert len(family) >= 3
        assert called
        found = {}
        for pid in family | called:
            held = [what for what in _descriptors(pid).values() if what in kept]
            found[f"{pid} {pid in called}"] = held
        mapped.close()
    return found


def inheritable(folder: str) -> dict[str, list[str]]:
    """Files and a pipe that are inheritable, also at the numbers that a child uses."""
    path = Path(folder) / "kept"
    path.touch()
    held = [os.open(path, os.O_RDWR) for _ in range(20)]
    read, write = os.pipe()
    for fd in (*held, read, write):
        os.set_inheritable(fd, True)
    return processes_with([str(path), os.readlink(f"/proc/self/fd/{read}")])


def without_standard_descriptors(folder: str) -> dict[str, list[str]]:
    """Numbers 0 to 2 are closed, and used for other things by now."""
    out = os.dup(1)
    for fd in range(3):
        os.close(fd)
    path = Path(folder) / "other"
    path.touch()
    assert [os.open(path, os.O_RDWR) for _ in range(3)] == [0, 1, 2]
    found = processes_with([str(path)])
    assert path.read_bytes() == b""
    for fd in range(3):
        os.dup2(out, fd)
    return found


def options_of_processes() -> None:
    """The options of this interpreter, and of the one that calls the function, as it tells."""
    with lazy(functions.interpreter, length=PAGE, policy=DEMAND) as mapped:
        told = json.loads(bytes(mapped[:]).rstrip(b"\0"))
    print(json.dumps([_ours(), told]))


def _ours() -> list[object]:
    told: list[object] = json.loads(functions.interpreter(0, PAGE).rstrip(b"\0"))
    return told


def silent(folder: str) -> list[object]:
    """Standard error is a pipe that nobody reads, and full: everything is served on."""
    source = userfault.function(functions.wordy_page, 40 * PAGE, "x" * 3000)
    loud = userfault.function(functions.shouting, 40 * PAGE)
    with userfault.Pager() as pager:
        failing = lazy(source, pager=pager, policy=DEMAND)
        shouting = lazy(loud, pager=pager, policy=DEMAND)
        sound = lazy(functions.numbered, length=40 * PAGE, pager=pager, policy=DEMAND)
        seen = []
        sink = os.open(Path(folder) / "sink", os.O_RDWR | os.O_CREAT)
        for page in range(40):
            with contextlib.suppress(OSError):  # poisoned
                os.write(sink, memoryview(failing)[page * PAGE : page * PAGE + 1])
            seen += numbers(shouting[page * PAGE : (page + 1) * PAGE])
            seen += numbers(sound[page * PAGE : (page + 1) * PAGE])
        for role in ("worker", "supervisor", "spare"):  # each has something to say, or its heir
            victim = member(pager, role)
            os.kill(victim, 9)
            member(pager, role, but=victim)
        failed = failing.statistics().failed
        for mapped in (failing, shouting, sound):
            mapped.close()
    return [seen == [n for n in range(1, 41) for _ in range(2)], failed]
