"""The contract of a memory type, rule by rule, under every schedule of a few tasks.

The rules are those that whoever writes a table has to keep (`model/memtypes/ops.py` says what each
hook must do).  The boundary names the hook that broke one; what no single hook shows, the model's
own rules and the results of the tasks do.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import msgspec

from userfault.check.explore.building.caller import Caller
from userfault.check.explore.building.scenario import Scenario
from userfault.check.explore.building.world import Area, World
from userfault.check.explore.invariants import INVARIANTS
from userfault.check.explore.runner import Runner
from userfault.check.explore.scenarios.expecting import WAITS, both, only
from userfault.check.explore.search import search
from userfault.check.explore.shorten import shortest
from userfault.check.explore.steps import Violation
from userfault.check.explore.strategies.reduced import Reduced
from userfault.check.explore.strategies.replay import line_of
from userfault.check.explore.telling.timeline import Timeline, tell
from userfault.kernel.errors import UsageError
from userfault.kernel.modes import Mode
from userfault.model.errors import ContractBreach, Errno
from userfault.model.memtypes.ops import MemoryOps
from userfault.model.profiles import Config, Profile

RULES = {
    1: "can_userfault depends on its arguments alone",
    2: "get_folio_noalloc creates nothing: the cached folio, locked, counted, inside the file",
    3: "alloc_folio gives a new folio that nobody sees, and none beyond the end of the file",
    4: "filemap_add inserts and locks, or refuses and has changed nothing",
    5: "filemap_remove is the exact inverse of filemap_add",
    6: "a COPY that failed leaves counts and page cache as they were",
    7: "beyond the end of the file a touch is SIGBUS, never a message",
    8: "of two COPYs of one page exactly one succeeds, the other is EEXIST",
    9: "no mapping keeps a page that a hole has taken out",
    10: "nobody reads a byte that was not in the source of the COPY",
}
_OF_HOOK = {
    "can_userfault": 1,
    "get_folio_noalloc": 2,
    "alloc_folio": 3,
    "undo_alloc": 3,
    "filemap_add": 4,
    "filemap_remove": 5,
}
_BOUND = 20_000  # schedules of one scenario


class Breach(msgspec.Struct, frozen=True):
    """A rule that is broken: what says so, and how it came to it (None: before any task ran)."""

    rule: int
    told: str
    timeline: Timeline | None


class Tried(msgspec.Struct, frozen=True):
    """One scenario: the rule that it is about, how many schedules, and what broke."""

    rule: int
    scenario: str
    sentence: str
    schedules: int
    exhausted: bool
    breach: Breach | None


class _Case(msgspec.Struct, frozen=True):
    rule: int
    build: Callable[[World, MemoryOps], None]
    needs: Callable[[MemoryOps], bool]

    def scenario(self, ops: MemoryOps, kernel: str) -> Scenario:
        name = self.build.__name__.replace("_", "-")
        sentence = " ".join((self.build.__doc__ or "").split())
        types = (ops,)
        return Scenario(name, sentence, lambda world: self.build(world, ops), kernel, types=types)


def _copies(ops: MemoryOps) -> bool:
    return ops.uffd.alloc_folio is not None and ops.uffd.filemap_add is not None


def _continues(ops: MemoryOps) -> bool:
    return ops.uffd.get_folio_noalloc is not None


def _modes(ops: MemoryOps) -> Mode:
    missing = Mode.MISSING if _copies(ops) else Mode(0)
    return missing | (Mode.MINOR if _continues(ops) else Mode(0))


def _two(world: World, ops: MemoryOps, pages: int = 1) -> tuple[Area, Area]:
    """A mapping, to be registered, and another one of the same file."""
    area = world.map(ops.name, pages)
    return area, world.map(pages=pages, file=area.file)


# --- Scenarios -----------------------------------------------------------------------------------


def registering(world: World, ops: MemoryOps) -> None:
    """A mapping is registered twice while it is read."""
    area = world.map(ops.name)
    uffd = world.uffd(process=area.process)
    modes = int(_modes(ops))
    for name in ("one", "other"):
        task = world.task(name, lambda me: me.register(uffd, area.start, area.length, modes))
        only(world, task, 0)


def continuing(world: World, ops: MemoryOps) -> None:
    """A page that another mapping has filled is mapped for a reader; a hole is not."""
    area, other = _two(world, ops, 2)
    world.store(other[0], b"there")
    uffd = world.uffd(area, mode=_modes(ops))
    reader = world.task("reader", lambda me: me.read(area[0], 5))
    world.task("handler", lambda me: me.continue_(uffd, area[0], area.step))
    hole = world.task("hole", lambda me: me.continue_(uffd, area[1], area.step))
    only(world, reader, b"there")
    only(world, hole, "EFAULT")


def copying(world: World, ops: MemoryOps) -> None:
    """A missing page is copied in for a reader, while another mapping writes it."""
    area, other = _two(world, ops)
    uffd = world.uffd(area, mode=_modes(ops) & Mode.MISSING)
    world.task("reader", lambda me: me.read(area[0]), may_wait=True)
    copier = world.task("copier", lambda me: me.copy(uffd, area[0], b"new", area.step))
    world.task("writer", lambda me: me.write(other[0], b"w"))
    only(world, copier, area.step, "EEXIST")
    both(world, "the write was lost", lambda: world.peek(other[0]) == b"w")


def copying_twice(world: World, ops: MemoryOps) -> None:
    """A page is copied in twice at once."""
    area = world.map(ops.name)
    uffd = world.uffd(area, mode=_modes(ops) & Mode.MISSING)
    one = world.task("one", lambda me: me.copy(uffd, area[0], b"one", area.step))
    two = world.task("two", lambda me: me.copy(uffd, area[0], b"two", area.step))

    def holds() -> object:
        return {one.value, two.value} == {area.step, "EEXIST"}

    both(world, RULES[8], holds)


def copying_into_a_shorter_file(world: World, ops: MemoryOps) -> None:
    """A page is copied in and read while the file is made shorter than that."""
    area = world.map(ops.name, 2)
    uffd = world.uffd(area, mode=_modes(ops) & Mode.MISSING)
    file = world.open(area.file)
    reader = world.task("reader", lambda me: me.read(area[1]), may_wait=True)
    world.task("copier", lambda me: me.copy(uffd, area[1], b"new", area.step))
    world.task("cutter", lambda me: me.truncate(file, area.step))
    only(world, reader, b"n", "SIGBUS", WAITS)


def touching_beyond_the_end(world: World, ops: MemoryOps) -> None:
    """A page behind the end of the file is touched, copied and continued."""
    area = world.map(ops.name, 2)
    uffd = world.uffd(area, mode=_modes(ops))
    file = world.open(area.file)

    def touch(me: Caller) -> object:
        me.truncate(file, area.step)
        answers = [me.copy(uffd, area[1], b"new", area.step)] if _copies(ops) else []
        if _continues(ops):
            answers.append(me.continue_(uffd, area[1], area.step))
        if not all(isinstance(answer, str) for answer in answers):
            return answers
        return me.read(area[1])

    only(world, world.task("reader", touch), "SIGBUS")


def copying_where_a_hole_is_made(world: World, ops: MemoryOps) -> None:
    """A page is copied in and read while a hole is made there."""
    area, other = _two(world, ops)
    uffd = world.uffd(area, mode=_modes(ops) & Mode.MISSING)
    file = world.open(area.file)
    world.task("copier", lambda me: me.copy(uffd, area[0], b"new", area.step))
    world.task("puncher", lambda me: me.punch(file, 0, area.step))
    world.task("reader", lambda me: me.read(other[0]))


def reading_what_is_copied(world: World, ops: MemoryOps) -> None:
    """A page is copied in while another mapping reads it: all of the source, if it was copied."""
    area, other = _two(world, ops)
    uffd = world.uffd(area, mode=_modes(ops) & Mode.MISSING)
    copier = world.task("copier", lambda me: me.copy(uffd, area[0], b"new", area.step))
    reader = world.task("reader", lambda me: me.read(other[0], 3))
    only(world, copier, area.step, "EEXIST")
    both(world, RULES[10], lambda: reader.value == b"new" or copier.value == "EEXIST")


_CASES = (
    _Case(1, registering, lambda _: True),
    _Case(2, continuing, _continues),
    _Case(4, copying, _copies),
    _Case(8, copying_twice, _copies),
    _Case(3, copying_into_a_shorter_file, lambda ops: _copies(ops) and ops.can_resize),
    _Case(7, touching_beyond_the_end, lambda ops: ops.can_resize),
    _Case(9, copying_where_a_hole_is_made, _copies),
    _Case(10, reading_what_is_copied, _copies),
)


# --- Running them --------------------------------------------------------------------------------


def tried(ops: MemoryOps, profile: Profile) -> Iterator[Tried]:
    """Every scenario that a type can be in, as it ends.

    Raises UsageError for a type that cannot be registered, or that has no files: nothing is asked
    of it then.
    """
    if not _modes(ops) or ops.fault_folio is None:
        raise UsageError(
            f"nothing to check of {ops.name!r}",
            cause="it has no pages of files that userfaultfd can fill: fault_folio, and"
            " get_folio_noalloc, or alloc_folio and filemap_add",
            cure="fill in its table; examples/modelled_memory_type.py has a whole one",
        )
    _register(ops, profile)
    for case in _CASES:
        if case.needs(ops):
            yield _tried(case, ops, profile)


def _register(ops: MemoryOps, profile: Profile) -> None:
    world = World(profile, Config(), (ops,))
    try:
        world.uffd(world.map(ops.name), mode=_modes(ops))
    except ContractBreach:
        pass  # the scenarios say which
    except Errno as refusal:
        raise UsageError(
            f"the model of {profile.name} cannot register {ops.name!r}",
            cause=f"{refusal}, for a shared mapping with {_modes(ops)!r}",
            cure="let can_userfault say yes to it, or choose another profile",
        ) from None


def _tried(case: _Case, ops: MemoryOps, profile: Profile) -> Tried:
    scenario = case.scenario(ops, profile.name)
    runner = Runner(scenario, profile, invariants=INVARIANTS)
    try:
        found = search(runner, Reduced(), schedules=_BOUND)
    except ContractBreach as breach:  # while its memory is set up
        told = Breach(_OF_HOOK.get(breach.hook, case.rule), str(breach), None)
        return Tried(case.rule, scenario.name, scenario.sentence, 0, False, told)
    broken = None
    if found.violation is not None and found.run is not None:
        run = shortest(runner, found.run) if found.run.violation is not None else found.run
        line = line_of(scenario, profile.name, frozenset(), run)
        violation = run.violation or found.violation
        broken = Breach(_rule(violation, case.rule), violation.text, tell(scenario, profile, line))
    return Tried(
        case.rule, scenario.name, scenario.sentence, found.schedules, found.exhausted, broken
    )


def _rule(violation: Violation, usual: int) -> int:
    """Which rule: that of the hook that broke one, else the one that the scenario is about."""
    if violation.name == "contract":
        for hook, rule in _OF_HOOK.items():
            if f"contract of {hook}" in violation.text:
                return rule
    return usual
