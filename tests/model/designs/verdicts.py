"""What becomes of a driver's mistake under a design: explored, and told in a word.

Each mistake meets the same small races: a page is continued while its file is cut, copied beside a
plain fault, a cut, a hole, munmap(2), onto a guard, and one task does all in turn.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from model.designs.misbehaviours import KERNEL, MOOD, NAME, Misbehaviour, driver
from userfault.check.explore.building.caller import Caller
from userfault.check.explore.building.scenario import Scenario
from userfault.check.explore.building.world import World
from userfault.check.explore.invariants import INVARIANTS
from userfault.check.explore.runner import Runner
from userfault.check.explore.search import Found, search
from userfault.check.explore.steps import Violation
from userfault.check.explore.strategies.reduced import Reduced
from userfault.kernel.memtypes import BASE_PAGE as PAGE
from userfault.kernel.modes import Mode
from userfault.model.errors import InvariantBroken
from userfault.model.invariants.books import check
from userfault.model.profiles import NEXT, Config
from userfault.uapi import mman

SCHEDULES = 300  # of each race, at most

CANNOT = "cannot be made"
CONTAINED = "contained"
CAUGHT = "caught"
BREAKS = "breaks"


class Verdict(msgspec.Struct, frozen=True):
    """`kind`, the rule that is broken or what the boundary says, and the race that shows it."""

    kind: str
    what: str = ""
    race: str = ""
    steps: int = 0


class Place:
    """What the races have in common: three pages of the driver, the last two cached."""

    def __init__(self, world: World) -> None:
        KERNEL[:] = [world.machine]
        MOOD[0] = False
        self.private = world.map("anon")
        world.store(self.private[0], b"private")
        self.area = world.map(NAME, 3)
        self.alias = world.map(file=self.area.file, pages=3)
        world.store(self.alias[1], b"cached")
        world.store(self.alias[2], b"beside")
        self.uffd = world.uffd()
        self.file = world.open(self.area.file)
        world.check(lambda: _books(world))

    def register(self, me: Caller) -> None:
        modes = int(Mode.MISSING | Mode.MINOR)
        me.register(self.uffd, self.area[0], self.area.length, modes)


def _books(world: World) -> str | None:
    """Everything counted again when all tasks have ended."""
    try:
        check(world.machine.spaces)
    except InvariantBroken as broken:
        return f"the books at the end: {broken}"
    return None


Race = Callable[[World, Place], None]
RACES: dict[str, Race] = {}


def race(build: Race) -> Race:
    """One of the races."""
    RACES[build.__name__.replace("_", " ")] = build
    return build


@race
def continue_and_cut(world: World, at: Place) -> None:
    def handle(me: Caller) -> None:
        at.register(me)
        me.continue_(at.uffd, at.area[1])

    world.task("handler", handle)
    world.task("truncater", lambda me: me.truncate(at.file, PAGE))


@race
def continue_and_hole(world: World, at: Place) -> None:
    def handle(me: Caller) -> None:
        at.register(me)
        me.continue_(at.uffd, at.area[1])

    world.task("handler", handle)
    world.task("puncher", lambda me: me.punch(at.file, PAGE))


@race
def continue_of_nothing(world: World, at: Place) -> None:
    def handle(me: Caller) -> object:
        at.register(me)
        return me.continue_(at.uffd, at.area[0])

    handler = world.task("handler", handle)
    made = "CONTINUE made a page: a minor fault is no longer one of a cached page"
    world.check(lambda: made if handler.value == PAGE else None)


@race
def copy_and_plain_fault(world: World, at: Place) -> None:
    def handle(me: Caller) -> None:
        at.register(me)
        me.copy(at.uffd, at.area[0], b"copied")

    world.task("handler", handle)
    world.task("reader", lambda me: me.read(at.alias[0], 6))


@race
def copy_and_cut(world: World, at: Place) -> None:
    def handle(me: Caller) -> None:
        at.register(me)
        me.copy(at.uffd, at.area[0], b"copied")

    world.task("handler", handle)
    world.task("truncater", lambda me: me.truncate(at.file, 0))


@race
def copy_and_hole(world: World, at: Place) -> None:
    def handle(me: Caller) -> None:
        at.register(me)
        me.copy(at.uffd, at.area[0], b"copied")

    world.task("handler", handle)
    world.task("puncher", lambda me: me.punch(at.file, 0))


@race
def copy_onto_a_guard(world: World, at: Place) -> None:
    def handle(me: Caller) -> object:
        me.madvise(at.area[0], PAGE, mman.MADV_GUARD_INSTALL)
        at.register(me)
        return me.copy(at.uffd, at.area[0], b"copied")

    handler = world.task("handler", handle)
    left = "a refused COPY left its page in the file"
    world.check(lambda: left if handler.value == "EEXIST" and 0 in at.area.file.cache else None)


@race
def copy_and_munmap(world: World, at: Place) -> None:
    def handle(me: Caller) -> None:
        at.register(me)
        me.copy(at.uffd, at.area[0], b"copied")

    world.task("handler", handle)
    world.task("unmapper", lambda me: me.munmap(at.area[0], at.area.length))


@race
def one_task_alone(world: World, at: Place) -> None:
    def handle(me: Caller) -> None:
        at.register(me)
        me.continue_(at.uffd, at.area[1])
        me.copy(at.uffd, at.area[1], b"again")
        me.copy(at.uffd, at.area[0], b"copied")
        me.copy(at.uffd, at.area[0], b"again")
        me.read(at.area[0], 6)
        me.read(at.private[0], 6)

    world.task("handler", handle, may_wait=True)


def scenario(found: Misbehaviour, design: str, name: str) -> Scenario | None:
    """A driver with this mistake in a race, or None where the design does not let it be made."""
    kind = driver(found, design)
    if kind is None:
        return None
    return Scenario(
        f"{design}-{found.hook.__name__}-{name.replace(' ', '-')}".replace("_", "-"),
        found.name,
        lambda world: RACES[name](world, Place(world)),
        config=Config(design=design),
        types=(kind,),
    )


def explored(built: Scenario) -> Found:
    """The race, one schedule of each kind, until a rule breaks."""
    runner = Runner(built, NEXT, invariants=INVARIANTS)
    return search(runner, Reduced(), schedules=SCHEDULES)


def verdict(found: Misbehaviour, design: str) -> Verdict:
    """What becomes of it: what the first race shows that shows anything."""
    for name in RACES:
        built = scenario(found, design, name)
        if built is None:
            return Verdict(CANNOT)
        seen = explored(built)
        if seen.violation is not None:
            assert seen.run is not None
            kind, what = _told(seen.violation)
            return Verdict(kind, what, name, len(seen.run.steps))
    return Verdict(CONTAINED)


def _told(broken: Violation) -> tuple[str, str]:
    if broken.kind == "invariant":
        if broken.name == "contract":
            return CAUGHT, broken.text.rpartition(": ")[2]
        return BREAKS, broken.name
    if broken.kind == "raised":
        return BREAKS, f"an oops ({broken.name})"
    return BREAKS, broken.text.partition(":")[0] if broken.kind == "check" else broken.kind
