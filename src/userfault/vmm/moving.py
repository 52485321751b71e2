"""Moving a machine to another host while its guest runs: see docs/postcopy.md."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from userfault.api.memory import LazyMemory
from userfault.kernel.memtypes import BASE_PAGE as PAGE
from userfault.migrate.frames import Offer
from userfault.migrate.link import PATIENCE_S
from userfault.migrate.receiving import Receiver
from userfault.migrate.sending import ROUNDS, STILL_S, Progress, Sent, send
from userfault.pager.core.policy import Policy
from userfault.serve.page_server.tls import Tls
from userfault.snapshot.errors import FormatError
from userfault.vmm.guest_memfd import GuestMemory
from userfault.vmm.machine import Machine
from userfault.vmm.state import MOST_CPUS


class _About(msgspec.Struct, frozen=True):
    """What a machine is before its state comes."""

    code: bytes
    cpus: int


def send_machine(
    machine: Machine,
    address: str,
    *,
    tls: Tls | None,
    rounds: int = ROUNDS,
    patience_s: float = PATIENCE_S,
    still_s: float = STILL_S,
    progress: Callable[[Progress], None] | None = None,
) -> Sent:
    """Move it to the receiver at `address` (HOST:PORT); returns when all its pages are there.

    Its guest runs meanwhile, here and then there; one that is paused runs from the switch on.
    Afterwards the machine is paused here, and its memory may be let go of.  See `migrate.send` for
    the rest, and for what is raised.
    """
    modes = ["compare" if isinstance(each, GuestMemory) else None for each in machine.memories]
    return send(
        _Moving(machine),
        address,
        tls=tls,
        rounds=rounds,
        modes=modes,
        patience_s=patience_s,
        still_s=still_s,
        progress=progress,
    )


def machine_receiver(
    address: str,
    *,
    tls: Tls | None,
    memory: str | Sequence[str] = "anon",
    policy: Policy | None = None,
    patience_s: float = PATIENCE_S,
    grow_pool: bool = False,
) -> Receiver:
    """A receiver of one machine: `guest` of what its `receive()` returns is that `Machine`, and it
    runs."""
    return Receiver(
        address,
        tls=tls,
        memory=memory,
        take=_take,
        policy=policy,
        patience_s=patience_s,
        grow_pool=grow_pool,
    )


def _take(offer: Offer, memories: list[LazyMemory]) -> Machine:
    """A machine like the sender's.  Raises FormatError, and what `Machine` does."""
    try:
        about = msgspec.msgpack.decode(offer.about, type=_About)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise FormatError("what comes is no machine", cause=str(error)) from None
    if not 0 < len(about.code) <= PAGE or not 0 < about.cpus <= MOST_CPUS:
        raise FormatError("what comes is no machine", cause="no code or no CPU, or too much")
    return Machine(memories, cpus=about.cpus, code=about.code)


class _Moving:
    """See `migrate.sending.Moving`."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self._ran = False
        self.memories: Sequence[Any] = machine.memories

    def about(self) -> bytes:
        """Its code, and how many CPUs."""
        machine = self._machine
        return msgspec.msgpack.encode(_About(machine.code, len(machine.cpus)))

    def stop(self) -> bytes:
        """Its state."""
        self._ran = any(cpu.running for cpu in self._machine.cpus)
        self._machine.pause()
        return self._machine.state()

    def go_on(self) -> None:
        """As it did."""
        if self._ran:
            self._machine.resume()
