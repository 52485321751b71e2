"""A type in every scenario that it can be in."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from userfault.check.explore.building.scenario import Scenario
from userfault.check.explore.building.world import World
from userfault.check.explore.contract.cases import CASES, Case, modes_of
from userfault.check.explore.contract.rules import rule_of, rule_of_breach
from userfault.check.explore.invariants import INVARIANTS
from userfault.check.explore.runner import Runner
from userfault.check.explore.search import search
from userfault.check.explore.shorten import shortest
from userfault.check.explore.strategies.reduced import Reduced
from userfault.check.explore.strategies.replay import Line, line_of
from userfault.check.explore.telling.timeline import Timeline, tell
from userfault.kernel.errors import UsageError
from userfault.model.errors import ContractBreach, Errno
from userfault.model.memtypes.ops import MemoryOps
from userfault.model.profiles import Config, Profile, profile_named

SCHEDULES = 20_000  # of one scenario, unless told otherwise


class Breach(msgspec.Struct, frozen=True):
    """A rule that is broken: what says so, and how it came to it (None: before any task ran)."""

    rule: int
    told: str
    timeline: Timeline | None


class Tried(msgspec.Struct, frozen=True):
    """One scenario: the rule that it is about, how many schedules, and what broke.

    `breach` may be of another rule than the scenario is about; where that can be left aside, the
    search went on without it, and `holds` is of the rule that it is about.  `exhausted`: every
    kind of schedule was seen; else what broke, or the bound, ended it.
    """

    rule: int
    scenario: str
    sentence: str
    schedules: int
    exhausted: bool
    breach: Breach | None
    holds: bool


def tried(
    ops: MemoryOps,
    profile: Profile,
    design: str = Config().design,
    schedules: int = SCHEDULES,
) -> Iterator[Tried]:
    """Every scenario that a type can be in under a design, as it ends.

    `schedules`: of each at most.  Raises UsageError for a type that cannot be registered, or that
    has no files: nothing is asked of it then.
    """
    world = World(profile, Config(design=design), (ops,))
    called = world.machine.types[ops.name]  # what the design makes of what the type says
    if not modes_of(called) or ops.fault_folio is None:
        raise UsageError(
            f"nothing to check of {ops.name!r}",
            cause="it has no pages of files that userfaultfd can fill: fault_folio, and"
            " get_folio_noalloc, or alloc_folio and filemap_add",
            cure="fill in its table; examples/modelled_memory_type.py has a whole one",
        )
    _register(world, called, design)
    for case in CASES:
        if case.needs(called):
            scenario = case.scenario(ops, profile.name, design)
            yield _tried(case, scenario, profile, schedules)


def again(ops: MemoryOps, line: Line) -> Timeline:
    """The one schedule of a line, told step by step.

    Raises UsageError where it is of no scenario of the contract, or of another type.
    """
    for case in CASES:
        if case.name == line.scenario:
            scenario = case.scenario(ops, line.kernel, line.design)
            return tell(scenario, profile_named(line.kernel), line)
    raise UsageError(
        f"no scenario of the contract is called {line.scenario!r}",
        cause="the replay line is of `userfault explore`",
        cure="paste it there",
    )


def _register(world: World, called: MemoryOps, design: str) -> None:
    try:
        world.uffd(world.map(called.name), mode=modes_of(called))
    except ContractBreach:
        pass  # the scenarios say which
    except Errno as refusal:
        raise UsageError(
            f"the model of {world.profile.name} cannot register {called.name!r} under {design}",
            cause=f"{refusal}, for a shared mapping with {modes_of(called)!r}",
            cure="let can_userfault say yes to it, or choose another profile or design",
        ) from None


def _tried(case: Case, scenario: Scenario, profile: Profile, schedules: int) -> Tried:
    runner = Runner(scenario, profile, invariants=INVARIANTS)
    try:
        found = search(runner, Reduced(), schedules=schedules)
    except ContractBreach as early:  # while its memory is set up
        told = Breach(rule_of_breach(early, case.rule), str(early), None)
        return Tried(case.rule, scenario.name, scenario.sentence, 0, False, told, False)
    breach = None
    if found.violation is not None and found.run is not None:
        run = shortest(runner, found.run) if found.run.violation is not None else found.run
        violation = run.violation or found.violation
        line = line_of(scenario, profile.name, frozenset(), run)
        rule = rule_of(violation, case.rule)
        breach = Breach(rule, violation.text, tell(scenario, profile, line))
        if rule != case.rule and violation.kind == "invariant":
            others = [each for each in INVARIANTS if each.name != violation.name]
            runner = Runner(scenario, profile, invariants=others)
            found = search(runner, Reduced(), schedules=schedules)
    return Tried(
        case.rule,
        scenario.name,
        scenario.sentence,
        found.schedules,
        found.exhausted,
        breach,
        found.violation is None,
    )
