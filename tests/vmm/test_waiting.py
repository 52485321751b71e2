"""CPUs that wait for a page: nobody serves it yet, and the machine can be paused all the same."""

from __future__ import annotations

import ctypes
import os
import re
from collections.abc import Iterator

import pytest

from helpers.pages import PAGE
from helpers.skips import absent, need_features
from helpers.waiting import wait_until
from helpers.world import World
from userfault.kernel.events import PageFault
from userfault.kernel.modes import Feature, Mode
from userfault.linux.process import LiveMapping
from userfault.linux.uffd import LiveUserfaultfd
from userfault.vmm.errors import GuestError
from userfault.vmm.machine import Machine
from userfault.vmm.program import Walk
from vmm.guests import image, words

pytestmark = pytest.mark.usefixtures("kvm")

PAGES = 8
RUN_S = 60
_MACHINE_S = 30


class Scene:
    """A machine over memory that is missing, and its userfaultfd."""

    def __init__(self, world: World, cpus: int) -> None:
        self.mapping: LiveMapping = world.map("anon", PAGES)
        self.uffd: LiveUserfaultfd = world.userfaultfd(Feature.THREAD_ID)
        self.uffd.register(self.mapping.address, self.mapping.length, Mode.MISSING)
        shown = (ctypes.c_char * self.mapping.length).from_address(self.mapping.address)
        self.machine = Machine([shown], cpus=cpus)

    def faults(self, count: int) -> list[PageFault]:
        """The next messages, as many as there are CPUs that wait."""
        found: list[PageFault] = []

        def came() -> bool:
            found.extend(each for each in self.uffd.read() if isinstance(each, PageFault))
            return len(found) >= count

        wait_until(came, RUN_S)
        return found

    def give_up(self) -> None:
        """Every page: UFFDIO_POISON."""
        self.uffd.poison(self.mapping.address, self.mapping.length)

    def fill(self) -> None:
        """Every page that is missing."""
        self.uffd.copy(self.mapping.address, image(PAGES), PAGES * PAGE)


@pytest.fixture
def world() -> Iterator[World]:
    made = World()
    yield made
    made.close()


def test_a_machine_whose_cpus_wait_for_one_page_is_paused_and_goes_on(world: World) -> None:
    version = tuple(map(int, re.findall(r"\d+", os.uname().release)[:2]))
    if version < (6, 2):
        absent("KVM waits for pages interruptibly since 6.2")
    scene = Scene(world, cpus=2)
    walk = Walk(PAGES)
    with scene.machine as machine:
        machine.start([walk, walk])
        machine.resume()
        faults = scene.faults(2)
        assert {fault.address for fault in faults} == {scene.mapping.address}
        assert {fault.thread_id for fault in faults} == {cpu.thread_id for cpu in machine.cpus}

        machine.pause(_MACHINE_S)
        taken = machine.state()
        assert [cpu.kvm.registers()["rcx"] for cpu in machine.cpus] == [PAGES, PAGES]

        scene.fill()
        machine.resume()
        assert machine.wait(RUN_S) == [walk.checksum(words)] * 2
        machine.set_state(taken)  # as it was when both of them waited
        machine.resume()
        assert machine.wait(RUN_S) == [walk.checksum(words)] * 2


def test_a_page_that_was_given_up_ends_the_guest_and_not_the_program(world: World) -> None:
    need_features(Feature.POISON)
    scene = Scene(world, cpus=2)
    with scene.machine as machine:
        machine.start([Walk(PAGES), Walk(PAGES)])
        machine.resume()
        scene.faults(2)
        scene.give_up()
        with pytest.raises(GuestError) as told:
            machine.wait(RUN_S)
        assert "gave the page up" in told.value.cause


def test_one_fill_lets_both_cpus_go_on(world: World) -> None:
    scene = Scene(world, cpus=2)
    walk = Walk(PAGES, pattern="random")
    with scene.machine as machine:
        machine.start([walk, walk])
        machine.resume()
        scene.faults(2)
        scene.fill()
        assert machine.wait(RUN_S) == [walk.checksum(words)] * 2
        assert not scene.uffd.read()
