"""A machine moves while its guest runs, and the guest's sums are those of one that never moved."""

from __future__ import annotations

import contextlib

import pytest

from helpers.pages import PAGE
from helpers.skips import absent
from helpers.world import pool_for
from migrate.scene import Awaited
from userfault.kernel.errors import MemoryUnavailable
from userfault.migrate.errors import NotReceived
from userfault.migrate.receiving import Received
from userfault.migrate.sending import Memories, send
from userfault.snapshot.errors import FormatError
from userfault.vmm.guest_memfd import GuestMemfd
from userfault.vmm.machine import Machine
from userfault.vmm.moving import machine_receiver, send_machine
from userfault.vmm.program import Walk
from userfault.vmm.restoring import restore
from userfault.vmm.saving import save
from userfault.vmm.trial import running
from vmm.guests import filled, words

pytestmark = pytest.mark.usefixtures("kvm")

PAGES = 1024  # two huge pages, and small ones
RUN_S = 60
STEPS = 400_000


def machine_in(received: Received) -> Machine:
    assert isinstance(received.guest, Machine)
    return received.guest


@pytest.mark.parametrize("rounds", [0, 3])
@pytest.mark.parametrize("memory", ["anon", "shmem", "hugetlb"])
def test_a_guest_sums_up_what_it_would_have_without_moving(memory: str, rounds: int) -> None:
    walks = [
        Walk(PAGES // 2, first=PAGES // 2 * cpu, steps=STEPS, pattern="random", write=True)
        for cpu in range(2)
    ]
    # Its second half is of another kind, and one that userfaultfd cannot protect.
    first = filled(PAGES // 2)
    second = filled(PAGES // 2)
    with pool_for(memory) as grows:
        receiver = machine_receiver("127.0.0.1:0", tls=None, memory=memory, grow_pool=grows)
        arrival = Awaited(receiver)
        with Machine([first, second], cpus=2) as machine:
            machine.start(walks)
            machine.resume()
            try:
                send_machine(machine, arrival.receiver.address, tls=None, rounds=rounds)
            except Exception:
                with contextlib.suppress(MemoryUnavailable):
                    arrival.join()
                    raise
                absent(str(arrival.error))
            assert not any(cpu.running for cpu in machine.cpus)
        with arrival.join() as received:
            sums = machine_in(received).wait(RUN_S)
            assert received.wait(RUN_S)
    half = PAGES // 2
    assert sums == [
        walk.checksum(lambda page: words(page % half))  # each memory was filled from page 0 on
        for walk in walks
    ]
    first.close()
    second.close()


def test_memory_of_a_guest_memfd_moves_compared() -> None:
    walk = Walk(64, steps=STEPS, pattern="random", write=True)
    arrival = Awaited(machine_receiver("127.0.0.1:0", tls=None))
    with Machine([GuestMemfd(64 * PAGE)]) as machine:
        machine.start([walk])
        machine.resume()
        send_machine(machine, arrival.receiver.address, tls=None)
    with arrival.join() as received:
        assert machine_in(received).wait(RUN_S) == [walk.checksum(lambda _: (0, 0))]
        assert received.wait(RUN_S)


def test_a_guest_that_is_still_restored_moves_on(tmp_path_factory: pytest.TempPathFactory) -> None:
    """From a store here, and at once from here to there: lazy memory at both ends."""
    place = str(tmp_path_factory.mktemp("store") / "vm")
    with running(PAGES, seconds=0.2) as machine:
        save(machine, place)
        expected = machine.wait(RUN_S)
    arrival = Awaited(machine_receiver("127.0.0.1:0", tls=None))
    with restore(place, track=True) as restored:
        restored.machine.resume()
        send_machine(restored.machine, arrival.receiver.address, tls=None)
    with arrival.join() as received:
        assert machine_in(received).wait(RUN_S) == expected
        assert received.wait(RUN_S)


def test_memory_without_a_machine_is_refused_where_one_is_awaited() -> None:
    memory = filled(4)
    arrival = Awaited(machine_receiver("127.0.0.1:0", tls=None))
    with pytest.raises(Exception, match="no machine"):
        send(
            Memories([memory], lambda: b"", lambda: None),
            arrival.receiver.address,
            tls=None,
        )
    with pytest.raises((FormatError, NotReceived)):
        arrival.join()
    memory.close()
