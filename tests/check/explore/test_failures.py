"""What goes wrong in a schedule is found, named, made short, and can be seen again."""

from __future__ import annotations

import itertools

import pytest

from userfault.check.explore.building.caller import Caller
from userfault.check.explore.building.scenario import Scenario, Scenarios
from userfault.check.explore.building.world import World
from userfault.check.explore.invariants import INVARIANTS
from userfault.check.explore.runner import Runner
from userfault.check.explore.search import Found, search
from userfault.check.explore.shorten import shortest
from userfault.check.explore.strategies.depth_first import DepthFirst
from userfault.check.explore.strategies.reduced import Reduced
from userfault.check.explore.strategies.replay import Replay, line_of, parse
from userfault.check.explore.telling.timeline import tell
from userfault.kernel.errors import UsageError
from userfault.kernel.memtypes import BASE_PAGE as PAGE
from userfault.model.errors import InvariantBroken
from userfault.model.invariants import Rule, Seen
from userfault.model.profiles import profile_named
from userfault.model.tasks.locks import RWLock
from userfault.uapi import mman

NEXT = profile_named("next")
broken = Scenarios()


@broken()
def a_page_that_is_dropped(world: World) -> None:
    """It is not there in the end if it is dropped after it was copied in."""
    area = world.map("anon")
    uffd = world.uffd(area)
    world.task("reader", lambda me: me.read(area[0]), may_wait=True)
    world.task("handler", lambda me: me.copy(uffd, area[0], b"new"))
    world.task("dropper", lambda me: me.madvise(area[0], PAGE, mman.MADV_DONTNEED))
    world.check(lambda: None if world.peek(area[0]) else "the page is gone")


@broken()
def a_reader_without_a_handler(world: World) -> None:
    """It waits for ever, and was not allowed to."""
    area = world.map("anon")
    world.uffd(area)
    world.task("reader", lambda me: me.read(area[0]))
    world.task("other", lambda me: me.madvise(area[0], PAGE, mman.MADV_COLD))


@broken()
def two_locks_in_two_orders(world: World) -> None:
    """Each task has what the other one wants."""
    sched = world.machine.sched
    one, two = RWLock(sched, "one"), RWLock(sched, "two")

    def take(first: RWLock, second: RWLock) -> None:
        first.write()
        second.write()
        second.write_done()
        first.write_done()

    world.task("left", lambda _: take(one, two))
    world.task("right", lambda _: take(two, one))


@broken()
def a_task_that_never_ends(world: World) -> None:
    """It makes the same call again and again."""
    area = world.map("anon")

    def again(me: Caller) -> None:
        while True:
            me.madvise(area[0], PAGE, mman.MADV_DONTNEED)

    world.task("again", again)


@broken()
def a_task_that_raises(world: World) -> None:
    """Not an errno, but a mistake."""
    nothing: dict[str, str] = {}
    world.task("mistaken", lambda _: nothing["nothing"])


def _search(scenario: Scenario, *, reduced: bool = True) -> tuple[Runner, Found]:
    runner = Runner(scenario, NEXT, invariants=INVARIANTS, points=60)
    strategy = Reduced() if reduced else DepthFirst()
    return runner, search(runner, strategy, schedules=500)


@pytest.mark.parametrize(
    ("name", "kind", "told"),
    [
        ("a-page-that-is-dropped", "check", "the page is gone"),
        ("a-reader-without-a-handler", "stuck", "reader waits for uffd#0 to resolve a fault"),
        ("two-locks-in-two-orders", "deadlock", "the lock two for write"),
        ("a-task-that-never-ends", "endless", "has not ended after 60 steps"),
        ("a-task-that-raises", "raised", "KeyError: 'nothing'"),
    ],
)
def test_a_violation_is_found_and_named(name: str, kind: str, told: str) -> None:
    for reduced in (True, False):
        _, found = _search(broken.by_name[name], reduced=reduced)
        assert found.violation is not None
        assert found.violation.kind == kind
        assert told in found.violation.text


def test_the_shortest_schedule_has_no_preemption_that_is_not_needed() -> None:
    runner, found = _search(broken.by_name["two-locks-in-two-orders"])
    assert found.run is not None
    short = shortest(runner, found.run)
    assert short.preemptions == 1
    assert short.violation is not None
    assert short.violation.kind == "deadlock"


def test_a_replay_line_runs_the_same_schedule_again() -> None:
    scenario = broken.by_name["a-page-that-is-dropped"]
    runner, found = _search(scenario)
    assert found.run is not None
    line = line_of(scenario, NEXT.name, runner.bugs, found.run)
    assert parse(str(line)) == line
    again = runner.run(Replay(line.schedule))
    assert again is not None
    assert again.violation == found.violation
    assert again.schedule == found.run.schedule


def test_a_line_of_something_else_is_refused() -> None:
    scenario = broken.by_name["a-page-that-is-dropped"]
    runner, found = _search(scenario)
    assert found.run is not None
    line = str(line_of(scenario, NEXT.name, runner.bugs, found.run))
    with pytest.raises(UsageError, match=r"is of version 0\.0\.0"):
        parse(line.replace(line.split(":")[1], "0.0.0"))
    with pytest.raises(UsageError, match="no replay line"):
        parse("explore0:" + line.partition(":")[2])
    with pytest.raises(UsageError, match="damaged"):
        parse(line.replace(line.split(":")[6], "0x9999999.z"))
    other = broken.by_name["a-reader-without-a-handler"]
    with pytest.raises(UsageError, match="another state of the model or of the scenario"):
        tell(other, NEXT, parse(line))


def test_what_depends_on_more_than_the_schedule_is_named() -> None:
    turns = itertools.count()
    moody = Scenarios()

    @moody()
    def build(world: World) -> None:
        area = world.map("anon")
        advice = mman.MADV_NOHUGEPAGE if next(turns) % 2 else mman.MADV_DONTNEED
        world.task("one", lambda me: me.madvise(area[0], PAGE, advice))
        world.task("two", lambda me: me.madvise(area[0], PAGE, mman.MADV_DONTNEED))

    found = search(Runner(moody.by_name["build"], NEXT), DepthFirst())
    assert found.violation is not None
    assert found.violation.kind == "two traces"


def test_an_invariant_is_looked_at_when_its_places_change() -> None:
    looked: list[int] = []

    def holds(seen: Seen) -> None:
        looked.append(1)
        if any(mm.table.tables for mm in seen.spaces.all):
            raise InvariantBroken("an entry")

    entries = Rule("none", "there are no entries", "a test", holds, frozenset({"entry"}))
    scenario = broken.by_name["a-page-that-is-dropped"]
    found = search(Runner(scenario, NEXT, invariants=[entries]), Reduced())
    assert found.violation is not None
    assert (found.violation.kind, found.violation.name) == ("invariant", "none")
    assert found.run is not None
    assert len(looked) < len(found.run.steps)
    pool = Rule("pool", "", "a test", holds, frozenset({"pool"}))
    looked.clear()
    search(Runner(scenario, NEXT, invariants=[pool]), Reduced())
    assert not looked


def test_the_timeline_tells_what_each_step_changed() -> None:
    scenario = broken.by_name["a-page-that-is-dropped"]
    runner, found = _search(scenario)
    assert found.run is not None
    line = line_of(scenario, NEXT.name, runner.bugs, shortest(runner, found.run))
    timeline = tell(scenario, NEXT, line)
    assert list(timeline.tasks.values()) == ["reader", "handler", "dropper"]
    assert len(timeline.rows) == len(line.schedule)
    told = [change for row in timeline.rows for change in row.changes]
    assert any(change.startswith("entry 0x") and change.endswith("exclusive") for change in told)
    assert any(change.startswith("entry 0x") and change.endswith(": gone") for change in told)
    assert any(
        change.startswith("lock of mapping 0x") and "held by 1 for reading" in change
        for change in told
    )
    assert timeline.violation == found.violation
