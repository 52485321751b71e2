"""A pager in a scenario's world: the real core and driver, journal and recovery, on the model."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from userfault.check.explore.building.caller import Caller
from userfault.check.explore.building.copies import Copy
from userfault.check.explore.building.world import Area, World
from userfault.kernel.modes import Feature, Mode
from userfault.model.files import filesystem
from userfault.model.files.open_files import O_NONBLOCK
from userfault.model.mm import access
from userfault.model.process import Thread
from userfault.model.tasks.sched import SPINS
from userfault.pager.core.policy import Policy
from userfault.pager.core.states import NAMES
from userfault.pager.drivers.model.kernel import Calm, Clock, Kernel, Mailbox, Weather
from userfault.pager.drivers.model.readers import Pool, Source
from userfault.pager.drivers.model.served import Estate
from userfault.pager.drivers.model.worker import Pager
from userfault.pager.drivers.wire.messages import Attach, Complete, GiveUp, Request
from userfault.snapshot.working_sets.course import Course, written
from userfault.source.spec import FileSpec, FunctionSpec, Spec, ZeroSpec

EVENTS = (
    Feature.EVENT_FORK | Feature.EVENT_REMAP | Feature.EVENT_REMOVE | Feature.EVENT_UNMAP
)  # fmt: skip
# One page at a time, nothing unasked, no watchdog: what is wanted is to be seen whole.
QUIET = Policy(background=False, window_bytes=1, chunk_bytes=1, fault_deadline_s=None)


class Terms(msgspec.Struct, frozen=True):
    """How memory is served.

    `origin`: of its pages ("file", "function" or "zero"); `prepared`: the file behind the memory
    holds them already; `readers`: threads of the pager that read; `mortal`: workers may be killed;
    `copy`: it is mapped over this;
    `timed`: time is a task, as sources that are slow and programs that wait need it.  (Without it
    the worker lets time pass itself when it has to.  What a task that spins and touches nothing
    does is out of the reduction's sight: schedules would be lost.)  `evicts`: the policy has a
    budget, and the memory is protected; `spills`: what was written goes to a file.
    """

    policy: Policy = QUIET
    origin: str = "file"
    prepared: bool = False
    readers: int = 0
    mortal: bool = False
    timed: bool = False
    has_poison: bool = True
    copy: Copy | None = None
    course: tuple[tuple[tuple[int, int], ...], ...] = ()
    evicts: bool = False
    spills: bool = False


class BehindIt:
    """The file behind the memory of an area, as its pager has it."""

    def __init__(self, world: World, area: Area) -> None:
        self._files = world.machine.files
        self._file = area.file

    def read(self, offset: int, length: int) -> bytes:
        """What it holds."""
        return filesystem.read(self._file, offset, length)

    def punch(self, offset: int, length: int) -> None:
        """Take a range out of it."""
        filesystem.punch(self._files, self._file, offset, length)


class Serving:
    """What a scenario sees of its pager."""

    def __init__(
        self, world: World, area: Area, pager: Pager, mailbox: Mailbox, *, shared: bool
    ) -> None:
        self.shared = shared
        self.world = world
        self.area = area
        self.pager = pager
        self.mailbox = mailbox
        self.clock = pager.kernel.clock
        self.meanwhile: Callable[[], None] = lambda: None  # whenever everybody waits

    def kill(self) -> bool:
        """SIGKILL for the worker.  Another one takes over."""
        return self.pager.kill()

    def exit(self, me: Caller) -> None:
        """The process of a task ends, and the pager is told by its pidfd."""
        me.exit()
        self.pager.nudge()

    def complete(self) -> None:
        """Ask for everything."""
        self._ask(Complete(1))

    def give_up(self) -> None:
        """Ask for nothing more from the source."""
        self._ask(GiveUp(1, "asked to"))

    def states(self) -> list[str]:
        """Of the pages, by name, as the client's own process has them."""
        first = min(self.pager.estate.memories)
        return [NAMES[state] for state in self.pager.estate.memories[first].held]

    @property
    def at_rest(self) -> bool:
        """The pager has nothing to do, and waits for nothing but messages."""
        worker = self.pager.worker
        if self.pager.over:
            return True
        asked = self.mailbox.asked and self.area.process.alive
        return worker is not None and worker.at_rest and not asked

    def _ask(self, request: Request) -> None:
        self.pager.ask(self.mailbox, request)

    def pass_time(self, me: Caller) -> None:
        """What the task that is the time does: it passes while nobody else can do anything."""
        sched = me.task.sched
        while True:
            sched.spin(lambda: "the others")
            self.meanwhile()
            while not sched.runnable:
                if self.at_rest and not any(map(_goes_on, self.world.callers.values())):
                    return  # a pager with forked children asks for ever whether they live
                when = self.clock.next
                if when is None or when == float("inf"):
                    break
                self.clock.pass_on()


def serve(
    world: World, area: Area, terms: Terms | None = None, weather: Weather | None = None
) -> Serving:
    """Have a pager serve `area`, which nothing is in.

    Its tasks are `pager` (and, when it was killed, `pager 2` ...), `reader 1` ... and `time`.
    """
    terms = terms or Terms()
    pages = area.length // area.step
    vma = area.process.mm.find(area.start)
    assert vma is not None
    kind = vma.ops.name
    process = world.spawn()
    mode = Mode.MISSING if kind == "anon" else Mode.MISSING | Mode.MINOR
    mode |= Mode.WP if terms.evicts else Mode(0)
    uffd = world.uffd(area, mode=mode, features=EVENTS, flags=O_NONBLOCK)
    fd = process.install(area.process.file(uffd.fd))
    kernel = Kernel(process, Clock(spins=not terms.timed), weather or Calm(), mortal=terms.mortal)
    pool = Pool()
    for number in range(terms.readers):
        reader = world.task(f"reader {number + 1}", _idle, process=process, may_wait=True)
        pool.add(reader.task)
    source = _source(world, area, kernel, pages, terms)
    file = None if kind == "anon" else area.file
    held = BehindIt(world, area) if terms.evicts else None
    estate = Estate(source, pool, lambda: -1 if file is None else file.size, held)
    copy = terms.copy
    if copy is not None:
        estate.in_copy = copy.page
    if terms.course:
        estate.course = Course(written(terms.course, ()))
    pager = Pager(kernel, estate, _starter(world, kernel))
    world.at_end(pager.close)
    attach = Attach(
        number=1,
        start=area.start,
        pages=pages,
        page_size=area.step,
        shared=vma.shared,
        zeropage=kind != "hugetlb",
        exists_is_ambiguous=kind == "hugetlb",
        has_poison=terms.has_poison,
        prepared=terms.prepared,
        has_source=True,
        has_memory=file is not None,
        source=_spec(terms.origin, area.length),
        policy=terms.policy,
        evicts=terms.evicts,
        has_spill=terms.spills,
        copy=copy.address if copy else 0,
    )
    taken = (copy.handed_to(process), copy.marks) if copy else None
    mailbox = pager.attach(area.process, fd, attach, taken)
    serving = Serving(world, area, pager, mailbox, shared=vma.shared)
    world.check(lambda: f"the client was ended: {estate.ended[0]}" if estate.ended else None)
    pager.begin()
    if terms.timed:
        world.task("time", serving.pass_time, process=process, may_wait=True)
    return serving


def _idle(_: Caller) -> None:
    """It waits for somebody to give it something to read."""


def _goes_on(caller: Caller) -> bool:
    """Whether a task of the scenario has something to do yet, or waits for a time to do it."""
    if caller.may_wait or caller.task.idle:
        return False
    return caller.task.waits is None or caller.task.waits.kind in (SPINS, "time")


def _spec(origin: str, length: int) -> Spec:
    if origin == "zero":
        return ZeroSpec(length)
    if origin == "function":
        return FunctionSpec(length, "the_world:source", b"", ())
    return FileSpec(length, 0, length, 0, "the source")


def _source(world: World, area: Area, kernel: Kernel, pages: int, terms: Terms) -> Source:
    """A file that the pager has mapped; the pages of it are in the page cache."""
    held = world.map("shmem", pages * (area.step // 4096), process=kernel.process)
    source = Source(held.start, pages, area.step)
    files = world.machine.files
    for page in range(pages):
        filesystem.write(files, held.file, page * area.step, source.page(page))
        if terms.prepared:
            filesystem.write(files, area.file, page * area.step, source.page(page))
        if not terms.mortal:
            at = source.address + page * area.step
            access.load(kernel.process.threads[0], kernel.process.mm, at, 1, [], user=True)
    return source


def _starter(world: World, kernel: Kernel) -> Callable[[Callable[[Thread], None]], None]:
    """Makes a task for each worker: the first is there when the world begins."""
    workers: list[Caller] = []

    def start(run: Callable[[Thread], None]) -> None:
        def body(me: Caller) -> None:
            run(me.task)

        if workers:
            caller = world.heir(workers[-1], f"pager {len(workers) + 1}", body)
        else:
            caller = world.task("pager", body, process=kernel.process, may_wait=True)
        workers.append(caller)

    return start
