"""Each rule is broken by a mistake made on purpose, and is the one that says so."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from msgspec.structs import replace

from userfault.check.explore.building.caller import Caller
from userfault.check.explore.building.scenario import Scenario
from userfault.check.explore.building.world import Area, World
from userfault.check.explore.invariants import INVARIANTS
from userfault.check.explore.runner import Runner
from userfault.check.explore.search import search
from userfault.check.explore.strategies.depth_first import DepthFirst
from userfault.kernel.memtypes import BASE_PAGE as PAGE
from userfault.kernel.modes import Feature, Mode
from userfault.model.errors import Refused
from userfault.model.files import filesystem
from userfault.model.files.folio import STALE, Folio
from userfault.model.files.inode import Inode
from userfault.model.invariants import RULES
from userfault.model.memtypes import pagecache
from userfault.model.memtypes.ops import MemoryOps, Where
from userfault.model.memtypes.shmem import SHMEM
from userfault.model.mm import pgtable as pt
from userfault.model.mm.address_space import AddressSpace
from userfault.model.profiles import LINUX_6_18, NEXT, Profile
from userfault.model.uffd import context, registration
from userfault.model.uffd.context import Context
from userfault.uapi import mman

ROOT = Path(__file__).parents[3]
Plant = Callable[[pytest.MonkeyPatch, World], None]
PLANTS: dict[str, Plant] = {}
TYPES: list[MemoryOps] = []
SPACES: list[AddressSpace] = []  # a driver's own globals


def plant(plant: Plant) -> Plant:
    """The mistake that breaks the rule of the function's name."""
    PLANTS[plant.__name__.replace("_", "-")] = plant
    return plant


def space(world: World) -> AddressSpace:
    return world.process.mm


def entry(world: World, address: int) -> pt.Entry:
    found = space(world).table.get(address)
    assert found is not None
    return found


def mistake(world: World, make: Callable[[], object]) -> None:
    """A task whose only step is the mistake."""

    def run(me: Caller) -> None:
        del me
        make()

    world.task("mistake", run)


def filled(world: World, kind: str = "shmem", pages: int = 2) -> Area:
    area = world.map(kind, pages)
    for page in range(pages):
        world.store(area[page], bytes([65 + page]))
    return area


@plant
def own_page(patch: pytest.MonkeyPatch, world: World) -> None:
    del patch
    area = filled(world)
    mistake(world, lambda: space(world).table.set(area[0], 12, entry(world, area[1])))


@plant
def whole(patch: pytest.MonkeyPatch, world: World) -> None:
    """COPY shows its page before it has copied."""
    del patch
    area = world.map("shmem")
    uffd = world.uffd(area)
    world.task("handler", lambda me: me.copy(uffd, area[0], STALE))

    def unwritten() -> None:
        folio = space(world).memory.allocate(0, 2, space(world).cgroup)
        assert folio is not None
        area.file.insert(folio, 0)
        space(world).memory.put(folio)
        area.file.mount = None

    mistake(world, unwritten)


@plant
def in_file(patch: pytest.MonkeyPatch, world: World) -> None:
    """Truncation takes nothing away."""
    area = filled(world, pages=1)
    file = world.open(area.file)
    patch.setattr(filesystem, "_unmap", lambda *_, **__: None)
    patch.setattr(filesystem, "_drop", lambda *_: None)
    world.task("truncater", lambda me: me.truncate(file, 0))


@plant
def protected(patch: pytest.MonkeyPatch, world: World) -> None:
    del patch
    area = filled(world, "anon", 1)
    uffd = world.uffd(area, mode=Mode.WP)

    def protect(me: Caller) -> None:
        me.writeprotect(uffd, area[0])
        flags, folio = entry(world, area[0])
        space(world).table.set(area[0], 12, (flags | pt.WRITE, folio))

    world.task("protector", protect)


@plant
def unprotected(patch: pytest.MonkeyPatch, world: World) -> None:
    area = filled(world, "anon", 1)
    uffd = world.uffd(area, mode=Mode.WP)
    patch.setattr(registration, "clear_protection", lambda *_: None)

    def unregister(me: Caller) -> None:
        me.writeprotect(uffd, area[0])
        me.unregister(uffd, area[0], PAGE)

    world.task("handler", unregister)


def meddling(folio: Folio, where: Where) -> None:
    """A driver's hook that writes a page table."""
    pagecache.add(folio, where)
    SPACES[0].table.set(SPACES[0].vmas.keys()[0], 12, pt.MARKER_POISON)


TYPES.append(replace(SHMEM.with_uffd(filemap_add=meddling), name="meddler"))


@plant
def core_alone(patch: pytest.MonkeyPatch, world: World) -> None:
    del patch
    SPACES[:] = [space(world)]
    world.map("anon")
    area = world.map("meddler")
    uffd = world.uffd(area)
    world.task("handler", lambda me: me.copy(uffd, area[0], b"x"))


@plant
def filled_once(patch: pytest.MonkeyPatch, world: World) -> None:
    """A fill does not look at what is there."""
    area = filled(world, "anon", 1)
    uffd = world.uffd(area)
    patch.setattr(AddressSpace, "entry", lambda *_: None)
    world.task("handler", lambda me: me.copy(uffd, area[0], b"x"))


@plant
def filled_as_checked(patch: pytest.MonkeyPatch, world: World) -> None:
    """6.18 does not look at the mapping again."""
    del patch
    area, source = world.map("shmem"), world.map("anon")
    other = world.file("shmem")
    uffd, feeder = world.uffd(area), world.uffd(source)
    world.task("handler", lambda me: me.copy(uffd, area[0], source[0]))

    def replace_it(me: Caller) -> None:
        me.mmap_fixed(area[0], PAGE, file=other, shared=True)
        me.register(uffd, area[0], PAGE, Mode.MISSING)
        me.copy(feeder, source[0], b"x")

    world.task("replacer", replace_it)


@plant
def event_gate(patch: pytest.MonkeyPatch, world: World) -> None:
    """A fill does not ask whether an event is pending."""
    area = world.map("anon")
    uffd = world.uffd(area, features=Feature.EVENT_REMOVE)
    patch.setattr(Context, "is_changing", False)
    world.task("dropper", lambda me: me.madvise(area[0], PAGE, mman.MADV_DONTNEED), may_wait=True)
    world.task("handler", lambda me: me.copy(uffd, area[0], b"x"))


@plant
def live_mapping(patch: pytest.MonkeyPatch, world: World) -> None:
    del patch
    area = filled(world, "anon", 1)
    vma = space(world).find(area[0])
    assert vma is not None
    world.process.threads[0].call(lambda: space(world).remove(vma))
    mistake(world, lambda: space(world).zap(vma, area[0], area.end, drop_markers=True))


@plant
def registrations(patch: pytest.MonkeyPatch, world: World) -> None:
    area = world.map("file")
    uffd = world.uffd()
    patch.setattr(registration, "_may_register", lambda *_: None)
    world.task("registerer", lambda me: me.register(uffd, area[0], PAGE, Mode.MISSING))


@plant
def mappings(patch: pytest.MonkeyPatch, world: World) -> None:
    """close(2) leaves the registrations."""
    area = world.map("anon")
    uffd = world.uffd(area)

    def keep(mm: AddressSpace, vma: object) -> None:
        del vma
        mm.changed()

    patch.setattr(context, "withdraw", keep)
    world.task("closer", lambda me: me.close(uffd))


def bug(world: World, name: str) -> None:
    """An old bug of Linux is the mistake."""
    machine = world.machine
    machine.spaces.config = replace(machine.config, bugs=frozenset({name}))
    world.process.mm.config = machine.spaces.config


@plant
def owner_alone(patch: pytest.MonkeyPatch, world: World) -> None:
    """UNREGISTER does not ask whose range it is."""
    del patch
    bug(world, "foreign-unregister")
    area = world.map("anon")
    world.uffd(area)
    other = world.uffd()
    world.task("stranger", lambda me: me.unregister(other, area[0], PAGE))


@plant
def features_once(patch: pytest.MonkeyPatch, world: World) -> None:
    """The last step of the handshake does not ask whether it was done before."""
    del patch
    bug(world, "handshake-twice")
    uffd = world.uffd()
    mistake(world, lambda: uffd.context.initialize(0))


@plant
def waiters(patch: pytest.MonkeyPatch, world: World) -> None:
    """A fill wakes nobody."""
    area = world.map("anon")
    uffd = world.uffd(area)
    patch.setattr(Context, "wake", lambda *_: None)
    world.task("reader", lambda me: me.read(area[0]))
    world.task("handler", lambda me: me.copy(uffd, area[0], b"x"))


@plant
def end_of_file(patch: pytest.MonkeyPatch, world: World) -> None:
    """A fault does not look at the size."""
    area = world.map("shmem")
    world.uffd(area)
    area.file.size = 0
    patch.setattr(Inode, "pages", lambda _: 1)
    world.task("reader", lambda me: me.read(area[0]), may_wait=True)


@plant
def served(patch: pytest.MonkeyPatch, world: World) -> None:
    """A fault may wait once, and no more."""
    del patch
    bug(world, "fault-retried-once")
    area = world.map("anon")
    uffd = world.uffd(area)
    world.task("reader", lambda me: me.read(area[0]), may_wait=True)
    world.task("waker", lambda me: me.wake(uffd, area[0]))


@plant
def counts(patch: pytest.MonkeyPatch, world: World) -> None:
    del patch
    area = filled(world, "anon", 1)

    def twice() -> None:
        flags, folio = entry(world, area[0])
        assert folio is not None
        folio.get()
        space(world).table.set(area[0], 12, (flags | pt.DIRTY, folio))

    mistake(world, twice)


@plant
def accounts(patch: pytest.MonkeyPatch, world: World) -> None:
    """A page of the cache is charged twice."""
    del patch
    area = world.map("shmem")

    def charge(me: Caller) -> None:
        area.file.blocks += 1
        me.write(area[0], b"x")

    world.task("writer", charge)


def unlocks_twice(folio: Folio, where: Where) -> None:
    """A driver's hook that unlocks what the refused insertion has unlocked."""
    try:
        pagecache.add(folio, where)
    except Refused:
        where.memory.unlock(folio)
        raise


TYPES.append(replace(SHMEM.with_uffd(filemap_add=unlocks_twice), name="unlocks-twice"))


@plant
def unlocked_once(patch: pytest.MonkeyPatch, world: World) -> None:
    del patch
    area = world.map("unlocks-twice")
    world.store(world.map(file=area.file)[0], b"there")
    uffd = world.uffd(area)
    world.task("handler", lambda me: me.copy(uffd, area[0], b"x"))


def refuses_half_way(folio: Folio, where: Where) -> None:
    """A driver's hook that says no and leaves its page in the cache."""
    pagecache.add(folio, where)
    raise Refused(12)


TYPES.append(replace(SHMEM.with_uffd(filemap_add=refuses_half_way), name="half-way"))


@plant
def contract(patch: pytest.MonkeyPatch, world: World) -> None:
    del patch
    area = world.map("half-way")
    uffd = world.uffd(area)
    world.task("handler", lambda me: me.copy(uffd, area[0], b"x"))


def kernel(name: str) -> Profile:
    return LINUX_6_18 if name == "filled-as-checked" else NEXT


@pytest.mark.parametrize("name", RULES)
def test_a_mistake_is_found_by_the_rule_that_it_breaks(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    scenario = Scenario(
        name, "", lambda world: PLANTS[name](monkeypatch, world), types=tuple(TYPES)
    )
    runner = Runner(scenario, kernel(name), invariants=INVARIANTS)
    found = search(runner, DepthFirst(), schedules=2_000)
    assert found.violation is not None
    assert (found.violation.kind, found.violation.name) == ("invariant", name)
    assert RULES[name].sentence in found.violation.text


def test_every_rule_has_its_mistake() -> None:
    assert set(PLANTS) == set(RULES)


def test_the_documentation_has_the_row_of_every_rule() -> None:
    text = (ROOT / "docs/explorer.md").read_text()
    missing = [
        rule.name
        for rule in RULES.values()
        if f"| `{rule.name}` | {rule.sentence} | {rule.source} |" not in text.replace("\\|", "|")
    ]
    assert missing == []
