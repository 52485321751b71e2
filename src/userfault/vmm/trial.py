"""A trial: a guest runs, is saved meanwhile, and goes on from there on every type of memory."""

from __future__ import annotations

import contextlib
import mmap
import time
from collections.abc import Iterator

import msgspec

from userfault.kernel.errors import MemoryUnavailable, Unavailable, UserfaultError
from userfault.kernel.memtypes import BASE_PAGE as PAGE
from userfault.pager.core.policy import Policy
from userfault.pager.core.states import PRESENT
from userfault.vmm.content import content
from userfault.vmm.machine import Machine
from userfault.vmm.program import Walk
from userfault.vmm.restoring import Restored, restore
from userfault.vmm.saving import save

MEMORIES = ("anon", "shmem", "shmem-private", "hugetlb", "guest_memfd")
_PROBE, _FASTER = 10_000, 4  # steps that tell how fast a guest is here, and how many more next
_PROBE_S = 0.1
_PIECE = 4096  # pages
GUEST_S = 600.0


class Saved(msgspec.Struct, frozen=True):
    """A guest that was saved while it ran.  `left`: steps that each CPU had left at that moment;
    `sums`: what the CPUs summed up in the end; `stopped_ms`: how long they stood still."""

    place: str
    pages: int
    cpus: int
    user: bool
    left: list[int]
    sums: list[str]
    stopped_ms: float


class Resumed(msgspec.Struct, frozen=True):
    """A guest that went on from a snapshot.  `seconds`: from KVM_RUN to its end; `faults` and
    `filled`: faults and pages that came in (0: before it ran); `failed`: why it did not come up."""

    memory: str
    sums: list[str] = []
    ready_ms: float = 0.0
    seconds: float = 0.0
    faults: int = 0
    filled: int = 0
    told: list[str] = []
    failed: str = ""
    lacking: bool = False


@contextlib.contextmanager
def running(
    pages: int,
    *,
    cpus: int = 1,
    user: bool = True,
    seconds: float = 1.0,
    pattern: str = "random",
) -> Iterator[Machine]:
    """A guest whose CPUs each walk over their part of the memory, reading and writing, for some
    `seconds` from now on."""
    with contextlib.closing(mmap.mmap(-1, pages * PAGE)) as memory:
        for first in range(0, pages, _PIECE):
            count = min(_PIECE, pages - first)
            memory[first * PAGE : (first + count) * PAGE] = content(first, count)
        with Machine([memory], cpus=cpus, user=user) as machine:
            steps = _steps(machine, pages // cpus, seconds)
            machine.start(
                [
                    Walk(
                        pages // cpus,
                        first=number * (pages // cpus),
                        steps=steps,
                        pattern=pattern,
                        write=True,
                    )
                    for number in range(cpus)
                ]
            )
            machine.resume()
            yield machine


def save_one(
    place: str,
    *,
    pages: int,
    cpus: int = 1,
    user: bool = True,
    seconds: float = 1.0,
    pattern: str = "random",
) -> Saved:
    """Run a guest for some `seconds` (see `running`); save it in the middle, and let it run to its
    end."""
    with running(pages, cpus=cpus, user=user, seconds=seconds, pattern=pattern) as machine:
        made = save(machine, place)
        sums = told(machine.wait(GUEST_S))
    with restore(place, policy=_policy("anon")) as restored:  # its registers alone are read
        left = [cpu.kvm.registers()["rcx"] for cpu in restored.machine.cpus]
    return Saved(place, pages, cpus, user, left, sums, made.stopped_s * 1e3)


def resume_one(place: str, memory: str, *, policy: Policy | None = None) -> Resumed:
    """Bring a guest up on a type of memory, and let it run to its end."""
    begun = time.perf_counter()
    try:
        with restore(
            place, memories=memory, policy=policy or _policy(memory), grow_pool=True
        ) as restored:
            ready = time.perf_counter()
            restored.machine.resume()
            sums = told(restored.machine.wait(GUEST_S))
            took = time.perf_counter() - ready
            faults, filled = _filled(restored)
            return Resumed(
                memory,
                sums,
                ready_ms=(ready - begun) * 1e3,
                seconds=took,
                faults=faults,
                filled=filled,
                told=restored.told,
            )
    except MemoryUnavailable as error:
        return Resumed(memory, failed=str(error), lacking=True)
    except UserfaultError as error:
        return Resumed(memory, failed=str(error), lacking=isinstance(error, Unavailable))


def _steps(machine: Machine, pages: int, seconds: float) -> int:
    """How many take so long here: the host may emulate what others run natively."""
    machine.run([Walk(pages, steps=pages)], GUEST_S)  # pages are mapped from here on
    steps = _PROBE
    while True:  # until it is longer than to start a CPU and to pause it
        begun = time.perf_counter()
        machine.run([Walk(pages, steps=steps)], GUEST_S)
        took = time.perf_counter() - begun
        if took >= _PROBE_S:
            return max(pages, int(seconds * steps / took))
        steps *= _FASTER


def _policy(memory: str) -> Policy:
    """On demand alone; private shared memory over a copy that all restores of a snapshot share."""
    share = "on" if memory == "shmem-private" else "off"
    return Policy(background=False, share=share, record="never", replay=False)


def _filled(restored: Restored) -> tuple[int, int]:
    faults = filled = 0
    for memory in restored.lazies:
        faults += memory.statistics().counters.faults
        filled += memory.page_states[:].count(PRESENT) * (memory.page_size // PAGE)
    return faults, filled


def told(sums: list[int]) -> list[str]:
    """As they are written."""
    return [f"{each:016x}" for each in sums]
