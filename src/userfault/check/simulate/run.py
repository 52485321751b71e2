"""One seed, run: built, played to its end, judged."""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Sequence

import msgspec

from userfault.check.explore.building.caller import Body, Caller
from userfault.check.explore.building.scenario import Scenario
from userfault.check.explore.building.serving import serve
from userfault.check.explore.building.world import World
from userfault.check.explore.runner import Runner
from userfault.check.explore.steps import Violation
from userfault.check.explore.strategies.chance import Priorities, Random
from userfault.check.explore.strategies.strategy import Here, Strategy
from userfault.check.simulate import case as cases
from userfault.check.simulate.client import Play, source_of
from userfault.check.simulate.shadow import Page, Space
from userfault.check.simulate.weather import Storm
from userfault.model import invariants
from userfault.model.profiles import NEXT, profile_named

POINTS = 10_000
_UNFAIR = 1_000  # steps of a run in which a task may be kept from running
_GIVEN_UP = re.compile("page at offset (0x[0-9a-f]+) given up")


class Result(msgspec.Struct):
    """What became of one seed.  `met`: how often what went wrong around the pager."""

    seed: int
    steps: int
    deaths: int
    met: dict[str, int]
    violation: Violation | None = None
    log: list[str] = []
    points: list[tuple[str, str]] = []


def run(seed: int, *, memory: str = "", kernel: str = NEXT.name, trace: bool = False) -> Result:
    """Run one seed.  `trace`: keep the points of every step."""
    case = cases.drawn(seed, memory)
    plays: list[Play] = []
    scenario = Scenario("simulation", "", lambda world: plays.append(_build(world, case, seed)))
    runner = Runner(scenario, profile_named(kernel), points=POINTS)
    done = runner.run(_strategy(seed))
    assert done is not None
    play = plays[0]
    met = Counter(play.storm.met)
    result = Result(seed, len(done.steps), play.serving.pager.deaths, dict(met), done.violation)
    if done.violation is not None or trace:
        result.log = play.log
    if trace:
        world = play.serving.world
        result.points = [(world.callers[step.task].name, step.point) for step in done.steps]
    return result


class _Fair(Priorities):
    """By priorities, but not for ever: fills go on failing until a thread that raised an event has
    run, and who keeps it from that keeps everybody."""

    def choose(self, here: Here) -> int:
        if len(here.steps) > _UNFAIR:
            return self._random.choice(here.enabled)
        return super().choose(here)


def _strategy(seed: int) -> Strategy:
    """Who runs: now and then by priorities, which find what needs one task to be slow for long."""
    return _Fair(seed, 1, depth=12) if seed % 4 == 3 else Random(seed, 1)


def _build(world: World, case: cases.Case, seed: int) -> Play:
    area = world.map(case.memory, case.pages)
    storm = Storm(case.climate, random.Random(seed), case.terms.policy.deadline_s)
    serving = serve(world, area, case.terms, storm)
    file = None if case.memory == "anon" else world.open(area.file)
    play = Play(case, serving, storm, file)
    pages = {area[at]: Page(at, {source_of(case, at)}) for at in range(case.pages)}
    space = Space(pages)
    play.spaces.append((None, space))
    tasks = [
        world.task(f"toucher {at + 1}", _acting(play, space, deeds))
        for at, deeds in enumerate(case.touching)
    ]
    tasks.append(world.task("changer", _acting(play, space, case.changing)))
    other = serving.pager.kernel.process
    for at, patience in enumerate(case.kills):
        world.task(f"killer {at + 1}", _killing(play, patience), process=other)
    serving.meanwhile = lambda: _audit(play, tasks)
    world.check(lambda: _complaint(play))
    return play


def _acting(play: Play, space: Space, deeds: Sequence[cases.Deed]) -> Body:
    return lambda me: play.act(me, space, deeds)


def _auditing(play: Play, space: Space) -> Body:
    return lambda me: play.audit(me, space)


def _killing(play: Play, looks: int) -> Body:
    """Somebody who looks on for a while, and then kills whoever is the worker."""

    def kill(me: Caller) -> None:
        for _ in range(looks):
            me.task.sched.point("killer")
        play.log.append(f"{me.name} kills the worker: {play.serving.kill()}")

    return kill


def _audit(play: Play, tasks: list[Caller]) -> None:
    """When all have done what they had to do the storm is over, and everything has to be right."""
    world = play.serving.world
    children = [child for child, _ in play.spaces if child is not None]
    if play.storm.healed or not all(each.task.idle for each in (*tasks, *children)):
        return
    play.storm.heal()
    for at, (child, space) in enumerate(play.spaces):
        parent = tasks[0] if child is None else child
        if not space.ended and parent.task.process.alive:
            name = f"auditor of process {at + 1}"
            world.heir(parent, name, _auditing(play, space))


def _complaint(play: Play) -> str | None:
    """What is wrong with an end at which everybody is at rest."""
    serving = play.serving
    estate = serving.pager.estate
    invariants.check(serving.world.machine.spaces)
    if not serving.at_rest:
        return "the pager has not come to rest"
    alive = serving.area.process.alive
    states = serving.states() if alive else []
    if "filling" in states:
        return f"nothing is under way, and the pages are {states}"
    everything = play.completed and not play.gave_up and not play.case.terms.evicts
    if alive and everything and {"missing", "cached"} & set(states):
        return f"everything was asked for, and the pages are {states}"
    for line in estate.said:
        given_up = _GIVEN_UP.match(line)
        if given_up and not play.gave_up:
            page = int(given_up[1], 16) // serving.area.step
            if play.storm.failures[page] <= play.case.terms.policy.retries:
                return f"without a reason: {line}"
    return None
