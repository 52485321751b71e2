"""A machine is saved while its guest runs, all of it at one moment, and comes up again lazily."""

from __future__ import annotations

import base64
import contextlib
import mmap
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

import userfault
from helpers.family import member
from helpers.folders import in_memory
from helpers.pages import PAGE
from helpers.skips import need_features
from helpers.waiting import wait_until
from helpers.world import pool_for
from userfault import Policy, UsageError
from userfault.kernel.memtypes import memory as userfault_memory
from userfault.kernel.modes import Feature
from userfault.linux.memory import prepare
from userfault.snapshot.serving.image import open_image
from userfault.snapshot.stores.opening import open_objects
from userfault.vmm.guest_memfd import GuestMemfd
from userfault.vmm.machine import Machine
from userfault.vmm.program import Walk
from userfault.vmm.restoring import Restored, restore, saved
from userfault.vmm.saving import STATE, Saver, save
from vmm.guests import as_left_by, filled, image, second_words, words

pytestmark = pytest.mark.usefixtures("kvm")

RUN_S = 60
PAGES = 1024
ENDLESS = 1 << 40
ONE_BY_ONE = Policy(background=False, fill_around="page", record="never", replay=False)


@pytest.fixture
def place() -> Iterator[Path]:
    with in_memory() as folder:
        yield folder / "s" / "vm"


@contextlib.contextmanager
def brought_up(place: Path, memory: str = "anon", **options: object) -> Iterator[Restored]:
    """`restore` with the hugetlb pool locked where it matters."""
    with (
        pool_for(memory) as grows,
        restore(place, memories=memory, grow_pool=grows, **options) as restored,  # type: ignore[arg-type]
    ):
        yield restored


@pytest.mark.parametrize("mode", ["async", "messages", "compare"])
def test_a_running_guest_is_saved_at_one_moment(place: Path, mode: str) -> None:
    need_features(Feature.WP_ASYNC)
    memory = filled(PAGES)
    walk = Walk(PAGES, steps=ENDLESS, read=False, write=True)
    with Machine([memory]) as machine, Saver(machine, place, mode=mode) as saver:
        machine.start([walk])
        machine.resume()
        for name in ("vm", "vm-1"):
            wait_until(lambda: second_words(memory)[0] > PAGES)
            made = saver.update()
            assert (made.name, machine.cpus[0].running) == (name, True)
            state, _ = saved(place.parent / name)
            with restore(place.parent / name) as restored:
                left = restored.machine.cpus[0].kvm.registers()["rcx"]
                now = second_words(bytes(restored.lazies[0]))
            assert state.cpus[0].busy
            wrong = [
                page
                for page in range(PAGES)
                if now[page] not in as_left_by(walk, left, words(page)[1], page)
            ]
            assert not wrong, f"{name}: not of the moment with {left} steps left: {wrong[:9]}"
    memory.close()


@pytest.mark.parametrize("memory", ["anon", "shmem", "shmem-private", "hugetlb", "guest_memfd"])
def test_a_guest_goes_on_where_it_was_saved(place: Path, memory: str) -> None:
    source = filled(PAGES)
    walks = [
        Walk(PAGES, pattern="random", write=True, steps=1_000_000),
        Walk(PAGES, pattern="stride", stride=5),
    ]
    # The second of two CPUs would see what the first writes: it has a machine of its own.
    for number, walk in enumerate(walks):
        name = place.with_name(f"vm.{number}")
        source[:] = image(PAGES)
        with Machine([source], user=number == 0) as machine:
            machine.start([walk])
            save(machine, name)
        with brought_up(name, memory, policy=ONE_BY_ONE) as restored:
            restored.machine.resume()
            assert restored.machine.wait(RUN_S) == [walk.checksum(words)]
            assert [
                f"guest_memfd was filled before the guest runs: {why}"
                for why in ["UFFDIO_REGISTER: EINVAL: no released kernel"]
                if memory == "guest_memfd"
            ] == [told[:89] for told in restored.told]
    source.close()


def test_only_what_the_guest_touches_comes_in(place: Path) -> None:
    source = filled(PAGES)
    with Machine([source]) as machine:
        machine.start([Walk(40, first=100)])
        save(machine, place)
    with restore(place, policy=ONE_BY_ONE) as restored:
        restored.machine.resume()
        restored.machine.wait(RUN_S)
        states = bytes(restored.lazies[0].page_states)
        # And what lies in the same chunk: chunks of a store are of 32 pages.
        assert [page for page in range(PAGES) if states[page]] == list(range(96, 160))
    source.close()


def test_clones_over_one_copy_are_filled_by_continue(place: Path) -> None:
    source = filled(PAGES)
    walk = Walk(PAGES, pattern="random", write=True)
    with Machine([source]) as machine:
        machine.start([walk])
        save(machine, place)
    shared = Policy(background=False, share="on")
    with (
        brought_up(place, "shmem-private", policy=shared) as one,
        brought_up(place, "shmem-private", policy=shared) as other,
    ):
        for restored in (one, other):
            restored.machine.resume()
            assert restored.machine.wait(RUN_S) == [walk.checksum(words)]
    source.close()


@pytest.mark.parametrize("memory", ["shmem", "hugetlb"])
def test_the_pages_of_a_memfd_are_continued(memory: str) -> None:
    walk = Walk(PAGES, pattern="random")
    with contextlib.ExitStack() as undo:
        undo.enter_context(pool_for(memory))
        recipe = prepare(userfault_memory(memory), PAGES * PAGE, grow_pool=True)
        undo.callback(recipe.close)
        with mmap.mmap(recipe.fd, PAGES * PAGE) as alias:
            alias[:] = image(PAGES)
        lazy = userfault.lazy(
            recipe.fd,
            memory=memory,
            prepared=True,
            writable=True,
            policy=Policy(background=False),
        )
        with lazy, Machine([lazy]) as machine:
            assert machine.run([walk], RUN_S) == [walk.checksum(words)]
            counters = lazy.statistics().counters
            assert (counters.copied, counters.continued) == (0, recipe.length // lazy.page_size)


def test_several_memories_are_one_snapshot(place: Path) -> None:
    first, second = filled(64), filled(32)
    walk = Walk(96 + 16, pattern="random")
    with Machine([first, second, GuestMemfd(16 * PAGE)], cpus=2) as machine:
        machine.memories[2][:] = image(16)
        want = machine.run([walk], RUN_S)
        machine.start([walk])
        save(machine, place)
    kinds = ["shmem", "anon", "guest_memfd"]
    with restore(place, memories=kinds) as restored:
        restored.machine.resume()
        assert restored.machine.wait(RUN_S)[:1] == want
    with pytest.raises(UsageError, match="2 types"):
        restore(place, memories=kinds[:2])
    first.close()
    second.close()


def test_a_guest_that_was_brought_up_is_saved_as_a_layer(place: Path) -> None:
    need_features(Feature.WP_ASYNC)
    source = filled(PAGES)
    with Machine([source]) as machine:
        save(machine, place)
    with restore(place, policy=ONE_BY_ONE, track=True) as restored:
        restored.machine.run([Walk(3, first=7, write=True)], RUN_S)
        made = save(restored.machine, place)
        # What came in counts as written: the chunk of 32 pages.
        assert (made.name, made.base, made.read, made.stored) == ("vm-1", "vm", 32, 3)
    with restore(place.with_name("vm-1")) as again:
        expected = second_words(image(PAGES))
        expected[7:10] = [3, 2, 1]
        assert second_words(bytes(again.lazies[0])) == expected
    source.close()


def test_a_guest_goes_on_when_its_pager_is_killed(place: Path) -> None:
    source = filled(PAGES)
    walks = [Walk(PAGES, pattern="random"), Walk(PAGES, pattern="random", seed=77)]
    with Machine([source], cpus=2) as machine:
        want = machine.run(walks, RUN_S)
        machine.start(walks)
        save(machine, place)
    with restore(place, policy=ONE_BY_ONE) as restored:
        for _ in range(3):
            worker = member(restored.pager, "worker")
            os.kill(worker, signal.SIGSTOP)
            restored.machine.resume()
            # Whoever asks finds nobody: the guest waits, and the worker dies.
            wait_until(lambda: any(map(_waits, restored.machine.cpus)) or _over(restored))
            os.kill(worker, signal.SIGKILL)
            member(restored.pager, "worker", but=worker)
            restored.machine.pause()
        restored.machine.resume()
        assert restored.machine.wait(RUN_S) == want
        assert restored.pager.takeovers == 3
    source.close()


def _waits(cpu: object) -> bool:
    path = Path(f"/proc/self/task/{cpu.thread_id}/wchan")  # type: ignore[attr-defined]
    return path.read_text() == "handle_userfault"


def _over(restored: Restored) -> bool:
    return not any(cpu.busy for cpu in restored.machine.cpus)


def test_the_state_of_a_machine_is_in_its_manifest(place: Path) -> None:
    memory = filled(4)
    with Machine([memory]) as machine:
        save(machine, place)
        about = open_image(open_objects(str(place.parent)), "vm").about
        assert base64.b64decode(about[STATE]) == machine.state()
    memory.close()
