"""Points: each is written down, and what only they let happen does happen."""

from __future__ import annotations

import ast
import contextlib
import errno
from collections.abc import Callable, Iterator
from pathlib import Path

import userfault.model
from userfault.kernel.errors import KernelError
from userfault.kernel.events import Remove
from userfault.kernel.memtypes import memory
from userfault.kernel.modes import Feature, Mode
from userfault.kernel.protocol import State
from userfault.model.faces.handle import ModelUserfaultfd
from userfault.model.faces.kernel import ModelKernel, ModelMapping, ModelPending, ModelProcess
from userfault.model.files.folio import Folio
from userfault.model.mm import mmap
from userfault.model.mm.vma import Vma
from userfault.model.profiles import LINUX_6_1, LINUX_6_18, LINUX_7_3, Profile
from userfault.model.tasks.points import POINTS
from userfault.model.tasks.strategies import Seeded
from userfault.uapi import mman

PAGE = 4096
ROOT = Path(__file__).parents[3]
SEEDS = 200
NONE = Feature(0)
LOCKS = {"mmap.read", "mmap.write", "pick"}  # made from the name of a lock, or by the scheduler


class World:
    """A process with registered memory, whose tasks are scheduled at random."""

    def __init__(
        self,
        seed: int,
        profile: Profile,
        kind: str = "anon",
        pages: int = 1,
        features: Feature = NONE,
    ) -> None:
        self.kernel = ModelKernel(profile, scheduler=Seeded(seed))
        self.process = self.kernel.process()
        self.area = self.process.map(memory(kind), pages * PAGE)
        self.uffd = self.process.userfaultfd(features)
        self.uffd.register(self.area.address, self.area.length, Mode.MISSING)

    def run(self, call: Callable[[], None], process: ModelProcess | None = None) -> ModelPending:
        return (process or self.process).task().call(call)


def outcomes(scenario: Callable[[int], object]) -> set[object]:
    """What it ends in under many schedules."""
    return {scenario(seed) for seed in range(SEEDS)}


def tried(uffd: ModelUserfaultfd, area: ModelMapping, source: int, length: int) -> str:
    """How a COPY ends."""
    try:
        uffd.copy(area.address, source, length)
    except KernelError as refused:
        return f"{errno.errorcode[refused.errno or 0]} after {refused.done}"
    return "done"


def points() -> Iterator[str]:
    """Every point that the model's code names."""
    for file in Path(userfault.model.__path__[0]).rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
                name = node.args[0] if node.func.attr == "point" else None
                if isinstance(name, ast.Constant) and isinstance(name.value, str):
                    yield name.value


def test_every_point_of_the_code_is_written_down_and_no_other() -> None:
    assert {*points(), *LOCKS} == set(POINTS)


def test_the_documentation_has_the_row_of_every_point() -> None:
    text = (ROOT / "docs/explorer.md").read_text()
    missing = [
        point.name
        for point in POINTS.values()
        if f"| `{point.name}` | {point.where} | {point.between} |" not in text
    ]
    assert missing == []


def source_unmapped(profile: Profile) -> Callable[[int], object]:
    """COPY of two pages while their source, a mapping of its own, is unmapped."""

    def scenario(seed: int) -> object:
        world = World(seed, profile, pages=2)
        source = world.process.map(memory("anon"), 2 * PAGE)
        for at in range(2):
            world.process.task().write(source.address + at * PAGE, b"s").result()
        ends: list[str] = []
        world.run(lambda: ends.append(tried(world.uffd, world.area, source.address, 2 * PAGE)))
        world.process.task().munmap(source.address, 2 * PAGE)
        world.kernel.settle()
        world.kernel.check()
        return ends[0]

    return scenario


def test_a_fill_keeps_its_own_mapping_and_no_other() -> None:
    assert outcomes(source_unmapped(LINUX_6_18)) == {"done", "EFAULT after 0", "EAGAIN after 4096"}


def test_up_to_6_5_a_fill_keeps_every_mapping() -> None:
    assert outcomes(source_unmapped(LINUX_6_1)) == {"done", "EFAULT after 0"}


def message_of_a_filled_page(seed: int) -> object:
    """A touch, a COPY of the page, and somebody who reads the message when the COPY has ended."""
    world = World(seed, LINUX_7_3)
    touch = world.process.task().read(world.area.address, 1)
    found: list[int] = []

    def fill() -> None:
        world.uffd.copy(world.area.address, b"x" * PAGE, PAGE)
        world.kernel.machine.sched.point("pick")  # back in user mode
        found.append(len(world.uffd.read()))

    world.run(fill)
    world.kernel.settle()
    assert touch.result().data == b"x"
    return found[0]


def test_a_message_can_be_read_of_a_page_that_is_filled_already() -> None:
    assert outcomes(message_of_a_filled_page) == {0, 1}


def fills_while_announced(profile: Profile) -> Callable[[int], object]:
    """A COPY, MADV_DONTNEED with its event, a reader: was a page put there in between?"""

    def scenario(seed: int) -> object:
        world = World(seed, profile, features=Feature.EVENT_REMOVE)
        area, context = world.area, world.uffd.context
        mm = world.process.process.mm
        install = mm.map_folio
        announced: list[bool] = []

        def watched(vma: Vma, address: int, flags: int, folio: Folio) -> None:
            announced.append(bool(context.changing))
            install(vma, address, flags, folio)

        mm.map_folio = watched  # type: ignore[method-assign]
        removal = world.process.task().madvise(area.address, PAGE, mman.MADV_DONTNEED)
        world.run(lambda: ignore(lambda: world.uffd.copy(area.address, b"x" * PAGE, PAGE)))
        world.kernel.settle()
        while removal.state is not State.DONE:
            assert world.uffd.read() == [Remove(area.address, area.address + PAGE)]
            world.kernel.settle()
        return any(announced)

    return scenario


def ignore(call: Callable[[], object]) -> None:
    """Whether it succeeds is not asked."""
    with contextlib.suppress(KernelError):
        call()


def test_an_event_waits_for_the_fills_that_have_begun() -> None:
    assert outcomes(fills_while_announced(LINUX_7_3)) == {False}


def test_on_6_1_a_fill_that_has_begun_does_not_see_an_event() -> None:
    assert outcomes(fills_while_announced(LINUX_6_1)) == {False, True}


def owner_ends(seed: int) -> object:
    """A process ends while another one's COPY is filling its memory."""
    world = World(seed, LINUX_7_3)
    handler = world.kernel.process()
    uffd = world.uffd.pass_to(handler.process)
    ends: list[str] = []

    def fill() -> None:
        try:
            uffd.copy(world.area.address, b"x" * PAGE, PAGE)
        except KernelError as refused:
            ends.append(errno.errorcode[refused.errno or 0])
        else:
            ends.append("done")

    world.run(fill, handler)
    world.run(lambda: world.process.process.exit(0))
    world.kernel.settle()
    world.kernel.check()
    assert not world.process.process.mm.alive
    return ends[0]


def test_memory_that_a_fill_works_on_outlives_its_process() -> None:
    assert outcomes(owner_ends) == {"done", "ESRCH"}


def process_ends_within(seed: int) -> object:
    """A process ends while another thread of it is preempted in a fault."""
    world = World(seed, LINUX_7_3, "shmem")
    world.uffd.unregister(world.area.address, world.area.length)
    world.process.task().write(world.area.address, b"x")
    world.run(lambda: world.process.process.exit(0))
    world.kernel.settle()
    world.kernel.check()
    return world.process.process.mm.alive


def test_memory_that_a_thread_works_on_outlives_the_exit_of_another() -> None:
    assert outcomes(process_ends_within) == {False}


def hole_of_a_file(seed: int) -> object:
    """A write fault of a private mapping and a COPY of the page: has the file got a page?"""
    world = World(seed, LINUX_7_3, "shmem-private")
    world.uffd.unregister(world.area.address, world.area.length)
    world.uffd.register(world.area.address, world.area.length, Mode.WP)
    filled: list[bool] = []

    def fill() -> None:
        try:
            world.uffd.copy(world.area.address, b"x" * PAGE, PAGE)
        except KernelError:
            filled.append(False)
        else:
            filled.append(True)

    touch = world.process.task().read(world.area.address, 1)
    world.run(fill)
    world.kernel.settle()
    world.kernel.check()
    assert world.area.backing is not None
    return touch.result().data, filled[0], len(world.area.backing.object.cache)


def test_a_fault_that_is_overtaken_leaves_its_page_in_the_file() -> None:
    assert outcomes(hole_of_a_file) == {(b"\0", False, 1), (b"x", True, 0), (b"x", True, 1)}


def mapping_replaced(seed: int) -> object:
    """MADV_DONTNEED looks its mapping up under the lock: none that is gone is ever zapped."""
    world = World(seed, LINUX_7_3, pages=2)
    start = world.area.address
    world.process.task().madvise(start, 2 * PAGE, mman.MADV_DONTNEED)
    world.process.task().munmap(start, 2 * PAGE)
    caller = world.process.process.thread()
    caller.submit(lambda: mmap.munmap(caller, world.process.process.mm, start, PAGE))
    world.kernel.settle()
    world.kernel.check()
    return len(world.process.process.mm.vmas)


def test_madvise_and_munmap_leave_nothing_behind() -> None:
    assert outcomes(mapping_replaced) == {0}
