"""A machine runs guests in both modes, says how they end, and lets its state be taken anywhere."""

from __future__ import annotations

import ctypes
import random

import pytest

from helpers.pages import PAGE
from helpers.waiting import wait_until
from userfault.kernel.errors import UsageError
from userfault.snapshot.errors import FormatError
from userfault.vmm import state
from userfault.vmm.errors import GuestError
from userfault.vmm.guest_memfd import GuestMemfd
from userfault.vmm.machine import Machine
from userfault.vmm.program import PATTERNS, Walk
from vmm.guests import filled, second_words, words

pytestmark = pytest.mark.usefixtures("kvm")

ENDLESS = 1 << 40
RUN_S = 60
BOTH = pytest.mark.parametrize("user", [True, False], ids=["user", "kernel"])


@BOTH
@pytest.mark.parametrize("pattern", PATTERNS)
def test_a_guest_sums_up_what_its_walk_says(user: bool, pattern: str) -> None:
    memory = filled(300)
    walk = Walk(290, first=10, steps=500, pattern=pattern, stride=7, write=True)

    with Machine([memory], user=user) as machine:
        assert machine.run([walk], RUN_S) == [walk.checksum(words)]
        # What it has written: the number of the step that wrote last.
        left = dict(walk.touched())
        expected = [left.get(page, words(page)[1]) for page in range(300)]
        assert second_words(memory) == expected
    memory.close()


def test_slots_lie_one_behind_the_other_whatever_they_are_of() -> None:
    first, second = filled(16), (ctypes.c_char * (32 * PAGE))()
    aligned = -ctypes.addressof(second) % PAGE
    third = (ctypes.c_char * (16 * PAGE)).from_buffer(second, aligned)
    walk = Walk(40, write=True, read=False)

    with Machine([first, third, GuestMemfd(8 * PAGE)]) as machine:
        machine.run([walk], RUN_S)
        written = [second_words(bytes(memory)) for memory in machine.memories]
    assert sum(written, []) == [left for _, left in walk.touched()]  # noqa: RUF017  # three
    first.close()


@BOTH
def test_a_triple_fault_is_told_and_the_cpu_can_begin_anew(user: bool) -> None:
    memory = filled(16)
    with Machine([memory], user=user) as machine:
        machine.crash()
        machine.resume()
        with pytest.raises(GuestError, match="a triple fault at 0x60") as caught:
            machine.wait(RUN_S)
        assert caught.value.cpu == 0
        machine.pause()

        assert machine.run([Walk(16)], RUN_S) == [Walk(16).checksum(words)]
    memory.close()


def test_one_cpu_that_fails_ends_the_wait_for_the_others() -> None:
    memory = filled(16)
    with Machine([memory], cpus=2) as machine:
        machine.start([Walk(16, steps=ENDLESS)])
        machine.crash(1)
        machine.resume()
        with pytest.raises(GuestError, match="CPU 1"):
            machine.wait(RUN_S)
        assert machine.cpus[0].busy
        assert not machine.cpus[0].running
    memory.close()


@BOTH
def test_a_touch_behind_the_last_slot_is_told(user: bool) -> None:
    memory = filled(16)
    with Machine([memory], user=user) as machine:
        machine.start([Walk(2, first=15)])
        machine.resume()
        with pytest.raises(GuestError, match=r"0x100010000 .* no memory there"):
            machine.wait(RUN_S)
    memory.close()


def test_a_paused_machine_stands_still_and_goes_on() -> None:
    memory = filled(64)
    with Machine([memory], cpus=2) as machine:
        machine.start([Walk(64, steps=ENDLESS, write=True), Walk(64, steps=ENDLESS)])
        for _ in range(20):
            machine.resume()
            machine.pause()
            before = [cpu.kvm.registers() for cpu in machine.cpus]
            kept = second_words(memory)
            assert [cpu.kvm.registers() for cpu in machine.cpus] == before
            assert second_words(memory) == kept
        done = before[0]["rcx"]
        machine.resume()
        wait_until(lambda: second_words(memory)[0] < done)
        with pytest.raises(TimeoutError, match="at work"):
            machine.wait(0.01)
        with pytest.raises(UsageError, match="runs"):
            machine.state()
    memory.close()


@BOTH
def test_another_machine_goes_on_where_one_was(user: bool) -> None:
    memory = filled(64)
    steps = 3_000_000 if user else 3_000  # the host may emulate kernel mode, some 10 us a step
    walks = [Walk(64, steps=steps, pattern="random"), Walk(64, steps=steps, seed=9)]
    with Machine([memory], cpus=2, user=user) as machine:
        whole = machine.run(walks, RUN_S)
    with Machine([memory], cpus=2, user=user) as machine:
        machine.start(walks)
        machine.resume()
        machine.pause()
        taken = machine.state()
    with Machine([memory], cpus=2, user=not user) as other:
        other.set_state(taken)
        other.resume()
        assert other.wait(RUN_S) == whole
    memory.close()


def test_a_slot_too_small_for_a_saved_machine_is_refused() -> None:
    large, small = filled(64), filled(32)
    with Machine([large]) as machine:
        taken = machine.state()
    with Machine([small]) as machine, pytest.raises(UsageError, match="256 KiB") as caught:
        machine.set_state(taken)
    assert "as much, or more" in caught.value.cure
    large.close()
    small.close()


def test_bytes_that_are_no_state_are_refused() -> None:
    memory = filled(4)
    with Machine([memory]) as machine:
        taken = machine.state()
        decoded = state.decode(taken)
        registers = decoded.cpus[0].kept
        for bad in (
            b"",
            taken[:-1],
            taken.replace(state.MAGIC, b"something else\n"),
            state.encode(state.MachineState(b"", (PAGE,), decoded.cpus)),
            state.encode(state.MachineState(b"x", (PAGE + 1,), decoded.cpus)),
            state.encode(state.MachineState(b"x", (1 << 40,), decoded.cpus)),
            state.encode(state.MachineState(b"x", (PAGE,), ())),
            state.encode(state.MachineState(b"x", (PAGE,), decoded.cpus, version=2)),
            state.encode(
                state.MachineState(
                    b"x", (PAGE,), (state.CpuState(False, registers | {"regs": b"short"}),)
                )
            ),
        ):
            with pytest.raises(FormatError):
                machine.set_state(bad)
    memory.close()


def test_damaged_states_are_refused_or_sound() -> None:
    memory = filled(4)
    with Machine([memory], cpus=2) as machine:
        taken = machine.state()
    memory.close()
    chance = random.Random(1)
    refused = 0
    for _ in range(2000):
        damaged = bytearray(taken)
        for _ in range(chance.choice((1, 1, 3))):
            damaged[chance.randrange(len(damaged))] = chance.randrange(256)
        try:
            found = state.decode(
                bytes(damaged[: chance.choice((len(taken), chance.randrange(200)))])
            )
        except FormatError:
            refused += 1
        else:
            assert found.version == state.VERSION
            assert found.length % PAGE == 0
    assert 500 < refused < 2000


def test_what_cannot_be_memory_is_refused() -> None:
    memory = filled(4)
    for bad in ([], ["text"], [memoryview(memory)[16:]], [b""]):
        with pytest.raises(UsageError):
            Machine(bad)
    with pytest.raises(UsageError, match="odd"):
        Walk(4, stride=2)
    memory.close()
