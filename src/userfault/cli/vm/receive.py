"""`userfault receive`: take a guest that another host sends, and let it run to its end."""

from __future__ import annotations

import time

import click
import msgspec

from userfault.cli.shared import json_output, terminal
from userfault.cli.vm.moving import peer_options
from userfault.migrate.receiving import Received
from userfault.serve.page_server.tls import Tls
from userfault.vmm.errors import GuestError
from userfault.vmm.machine import Machine
from userfault.vmm.moving import machine_receiver
from userfault.vmm.trial import GUEST_S, told

SCHEMA = "userfault.receive/1"
MEMORIES = ("anon", "shmem", "hugetlb")


class Arrived(msgspec.Struct, frozen=True):
    """A guest that came, and went on to its end.  `faults`: pages that it waited for; `seconds`:
    from the switch to its end."""

    peer: str
    memory: str
    pages: int
    sums: list[str]
    faults: int
    seconds: float


_CAUSE_S = 5.0


@click.command()
@click.argument("address", metavar="[HOST:]PORT")
@click.option(
    "--memory",
    type=click.Choice(MEMORIES),
    default="anon",
    show_default=True,
    help="What its memory is to be of.",
)
@peer_options
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def receive(
    address: str,
    memory: str,
    patience: float,
    tls: Tls | None,
    as_json: bool,
) -> None:
    """Wait for one guest that `userfault send` sends to this address, and let it run to its end.

    Its pages come when it touches them, and behind.  Without HOST only this machine is listened to;
    port 0 takes one that is free.  Where it listens is told on standard error.
    """
    receiver = machine_receiver(address, tls=tls, memory=memory, patience_s=patience)
    terminal.say(f"listening at {receiver.address}", err=True)
    with receiver.receive() as received:
        begun = time.monotonic()
        machine = received.guest
        assert isinstance(machine, Machine)
        terminal.say(f"a guest from {receiver.peer} runs here", err=True)
        sums = _ended(machine, received)
        seconds = time.monotonic() - begun
        received.wait()
        faults = sum(each.statistics().counters.faults for each in received.memories)
        arrived = Arrived(receiver.peer, memory, machine.pages, sums, faults, seconds)
    if as_json:
        json_output.show(SCHEMA, arrived)
    else:
        terminal.say(
            f"ran {seconds:.2f} s here, {faults:,} faults, {arrived.pages:,} pages came in;"
            f" sums {' '.join(sums)}"
        )


def _ended(machine: Machine, received: Received) -> list[str]:
    """What it has summed up.  Raises NotReceived where it was for want of pages that it stopped."""
    try:
        return told(machine.wait(GUEST_S))
    except GuestError:
        received.wait(_CAUSE_S)
        raise
