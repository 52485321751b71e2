"""The client of one demo run, in a process of its own: restores the image lazily and touches it.

Started by `userfault demo`, which sends the touch order on standard input and reads the outcome,
as JSON, from standard output.  A touch is a read of one byte by Python, so it takes the GIL with it
into the page fault: nothing else runs in this process meanwhile, and nothing disturbs the timing.
"""

from __future__ import annotations

import contextlib
import errno
import mmap
import signal
import sys
import time
from array import array

import blake3
import msgspec

from userfault.api.lazy import lazy
from userfault.api.memory import LazyMemory
from userfault.kernel.errors import RegistrationRefused, Unavailable
from userfault.kernel.memtypes import BASE_PAGE
from userfault.kernel.modes import Mode, names
from userfault.pager.core.plan import Counters
from userfault.pager.core.policy import Policy
from userfault.pager.core.states import PRESENT

BANDS = 192  # how finely fills are told apart by address in the picture
_LOOKS = 500  # most looks at the page states kept; then every second one is dropped
_LOOK_NS = 1_000_000
_WAIT_S = 0.001
# A fault takes 4 µs and more (measured), a touch of what is mapped 0.1.  The state alone cannot
# tell: the client may run on before the pager has noted that the page is there.
_FAULT_NS = 2_000


class Job(msgspec.Struct, frozen=True):
    """What to run: the image's descriptor and length, the memory, and who fills it."""

    image: int
    length: int
    memory: str
    page_size: int
    background: bool


class Latency(msgspec.Struct, frozen=True):
    """Of the touches that faulted, in microseconds; `count` of them."""

    count: int
    p50: float
    p99: float
    largest: float


class Trace(msgspec.Struct, frozen=True):
    """What the picture is drawn from; times in microseconds from the first touch on.

    `faults`: (time, page of the image) of each touch that faulted.  `fills`:
    (time, band, pages) that became present since the look before; `bands`: how many there are.
    `present`: (time, pages present).
    """

    bands: int
    faults: list[tuple[int, int]]
    fills: list[tuple[int, int, int]]
    present: list[tuple[int, int]]


class Restored(msgspec.Struct, frozen=True, tag="restored"):
    """What a run found.  `digest`: of all memory; `wrong`: touches that read a wrong byte.

    `ready_s`: how long `lazy()` took; `complete_s`: from its call until every page was in.
    """

    mode: str
    pages: int
    page_size: int
    touches: int
    latency: Latency | None
    ready_s: float
    complete_s: float
    digest: str
    wrong: int
    counters: Counters
    user_mode_only: bool
    trace: Trace


class Refused(msgspec.Struct, frozen=True, tag="refused"):
    """This system cannot do it, and why."""

    what: str
    cause: str
    cure: str


Outcome = Restored | Refused


def main() -> None:
    """Run the job in `argv[1]`."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # leaves the memory in good order
    job = msgspec.json.decode(sys.argv[1], type=Job)
    order = array("I", sys.stdin.buffer.read())
    outcome: Outcome
    try:
        outcome = run(job, order)
    except Unavailable as error:
        outcome = Refused(error.what, error.cause, error.cure)
    except RegistrationRefused as error:
        what = f"{error.operation} failed with {errno.errorcode.get(error.errno, error.errno)}"
        outcome = Refused(what, error.cause, error.cure)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # nothing to put in order any more
    sys.stdout.buffer.write(msgspec.json.encode(outcome))
    sys.stdout.flush()


def run(job: Job, order: array[int]) -> Restored:
    """Restore, touch, complete, verify."""
    begun = time.perf_counter()
    policy = Policy(background=job.background)
    with lazy(
        job.image, memory=job.memory, page_size=job.page_size, length=job.length, policy=policy
    ) as memory:
        ready_s = time.perf_counter() - begun
        touching = Touching(memory)
        touching.touch(order)
        touching.complete()
        wrong = touching.wrong(job.image, order)
        statistics = memory.statistics()
        return Restored(
            mode=names(Mode.MISSING | (Mode.MINOR if memory.memory.minor_faults else Mode(0))),
            pages=statistics.pages,
            page_size=memory.page_size,
            touches=len(order),
            latency=touching.latency(),
            ready_s=ready_s,
            complete_s=ready_s + touching.complete_ns / 1e9,
            digest=digest(memory),
            wrong=wrong,
            counters=statistics.counters,
            user_mode_only=memory.user_mode_only,
            trace=touching.trace(),
        )


def digest(data: mmap.mmap) -> str:
    """The BLAKE3 digest of every byte."""
    return blake3.blake3(data, max_threads=blake3.blake3.AUTO).hexdigest()


class Touching:
    """Touches one lazy memory and keeps what it sees.  All times count from its making."""

    def __init__(self, memory: LazyMemory) -> None:
        self._memory = memory
        self._shift = memory.page_size.bit_length() - 1
        self._states = memory.page_states
        self._read = bytearray()
        self._faults: list[tuple[int, int, int]] = []  # (time, page, latency)
        self._looks: list[tuple[int, bytes]] = []
        self._between = _LOOK_NS
        self.complete_ns = 0
        self._begun = time.perf_counter_ns()
        self._look(0)

    def touch(self, order: array[int]) -> None:
        """Read one byte of each page in turn, and time it."""
        memory, states, clock, begun = self._memory, self._states, time.perf_counter_ns, self._begun
        down = self._shift
        read, fault = self._read.append, self._faults.append
        met = bytearray(len(states))  # pages of the memory that have faulted
        next_look = self._between
        for page in order:
            at = page * BASE_PAGE
            own = at >> down
            missing = states[own] != PRESENT
            before = clock()
            byte = memory[at]
            after = clock()
            read(byte)
            if missing and after - before > _FAULT_NS and not met[own]:
                met[own] = 1
                fault((before - begun, page, after - before))
            if after - begun >= next_look:
                self._look(after - begun)
                next_look = after - begun + self._between

    def complete(self) -> None:
        """Have what is left filled, and wait for it."""
        with contextlib.suppress(TimeoutError):
            self._memory.complete(timeout=0)
        while not self._memory.wait(_WAIT_S):
            self._look(time.perf_counter_ns() - self._begun)
        self._look(time.perf_counter_ns() - self._begun)
        self._memory.check()

    def _look(self, now: int) -> None:
        """Keep the page states of this moment."""
        if self.complete_ns:
            return
        states = self._states[:]
        self._looks.append((now, states))
        if states.count(PRESENT) == len(states):
            self.complete_ns = now
        if len(self._looks) > _LOOKS:
            del self._looks[1::2]
            self._between *= 2

    def wrong(self, image: int, order: array[int]) -> int:
        """How many touches read another byte than the image has there."""
        with mmap.mmap(image, len(self._memory), prot=mmap.PROT_READ) as held:
            touched = zip(order, self._read, strict=True)
            return sum(held[page * BASE_PAGE] != byte for page, byte in touched)

    def latency(self) -> Latency | None:
        """Of the touches that faulted."""
        times = sorted(latency / 1000 for _, _, latency in self._faults)
        if not times:
            return None
        return Latency(len(times), times[len(times) // 2], times[len(times) * 99 // 100], times[-1])

    def trace(self) -> Trace:
        """For the picture."""
        pages = len(self._states)
        bands = min(BANDS, pages)
        edges = [pages * band // bands for band in range(bands + 1)]
        held = [0] * bands
        fills = []
        for now, states in self._looks:
            for band in range(bands):
                count = states.count(PRESENT, edges[band], edges[band + 1])
                if count > held[band]:
                    fills.append((now // 1000, band, count - held[band]))
                    held[band] = count
        return Trace(
            bands=bands,
            faults=[(at // 1000, page) for at, page, _ in self._faults],
            fills=fills,
            present=[(now // 1000, states.count(PRESENT)) for now, states in self._looks],
        )


if __name__ == "__main__":
    main()
