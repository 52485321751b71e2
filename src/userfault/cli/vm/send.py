"""`userfault send`: a guest that moves to another host while it runs."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import click
import msgspec

from userfault.api.memory import LazyMemory
from userfault.cli.shared import errors, json_output, terminal
from userfault.cli.shared.progress import bar
from userfault.cli.shared.sizes import size as size_of
from userfault.cli.vm.moving import peer_options, seconds
from userfault.cli.vm.telling import guest_options
from userfault.kernel.errors import UsageError, UserfaultError
from userfault.kernel.memtypes import BASE_PAGE, MIB
from userfault.migrate.errors import HalfMoved, NotMoved
from userfault.migrate.sending import ROUNDS, STILL_S, Sent
from userfault.serve.page_server.tls import Tls
from userfault.snapshot.packing.claim import check_free
from userfault.snapshot.stores.opening import open_objects
from userfault.snapshot.stores.place import place_for
from userfault.vmm.machine import Machine
from userfault.vmm.moving import send_machine
from userfault.vmm.restoring import restore
from userfault.vmm.saving import save
from userfault.vmm.trial import GUEST_S, running, told

SCHEMA = "userfault.send/1"
HALF = 9  # it is the receiver's, and not seen to be whole there


class Outcome(msgspec.Struct, frozen=True):
    """`moved`, or why not, and then what its CPUs have summed up here."""

    moved: Sent | None = None
    failed: str = ""
    sums: list[str] = []


@click.command()
@click.argument("address", metavar="HOST:PORT")
@click.option(
    "--from",
    "place",
    metavar="STORE/NAME",
    help="Go on with the guest that `userfault vm save` stored there, in place of a new one.",
)
@guest_options
@click.option(
    "--rounds",
    type=click.IntRange(0, 100),
    default=ROUNDS,
    show_default=True,
    help="How often pages are sent before the switch at most; 0: none.",
)
@seconds(
    "--still",
    STILL_S,
    "How long the guest may stand still before the switch; then it runs on here.",
)
@click.option(
    "--keep",
    metavar="STORE/NAME",
    help="Where the receiver is lost after the switch: store the guest there, as it stands here.",
)
@peer_options
@click.option("--json", "as_json", is_flag=True, help="Print the outcome as JSON.")
def send(
    address: str,
    place: str | None,
    size: int,
    cpus: int,
    kernel_mode: bool,
    pattern: str,
    seconds: float,
    rounds: int,
    still: float,
    keep: str | None,
    patience: float,
    tls: Tls | None,
    as_json: bool,
) -> int:
    """Run a guest, and move it to `userfault receive` at HOST:PORT while it runs.

    It goes on there; what its CPUs add up is told there in the end.  Where it cannot be moved it
    runs to its end here (exit code 1).
    """
    if keep is not None:  # what can be said against it is said before anything is begun
        store, name = place_for(keep, f"keeping a guest as {keep!r}")
        check_free(open_objects(store), name)
    with contextlib.ExitStack() as stack:
        if place is not None:
            machine = stack.enter_context(_restored(place, track=rounds > 0 or keep is not None))
        else:
            machine = stack.enter_context(
                running(
                    size * MIB // BASE_PAGE,
                    cpus=cpus,
                    user=not kernel_mode,
                    seconds=seconds,
                    pattern=pattern,
                )
            )
        try:
            with bar("moving") as step:
                sent = send_machine(
                    machine,
                    address,
                    tls=tls,
                    rounds=rounds,
                    patience_s=patience,
                    still_s=still,
                    progress=lambda at: step(at.pages - at.left, at.pages),
                )
            outcome = Outcome(moved=sent)
        except HalfMoved as error:
            errors.show(error)
            if keep is not None:
                _keep(machine, keep)
            return HALF
        except NotMoved as error:
            errors.show(error)
            outcome = Outcome(failed=str(error), sums=told(machine.wait(GUEST_S)))
    if as_json:
        json_output.show(SCHEMA, outcome)
    else:
        _say(outcome)
    return 0 if outcome.moved else errors.FAILED


@contextlib.contextmanager
def _restored(place: str, *, track: bool) -> Iterator[Machine]:
    with restore(place, track=track) as restored:
        restored.machine.resume()
        yield restored.machine


def _keep(machine: Machine, place: str) -> None:
    """Store it as it was when it was given away: its memory ends with this process."""
    try:
        for memory in machine.memories:
            if isinstance(memory, LazyMemory):  # another store has nothing of what is still to come
                with contextlib.suppress(UsageError):  # it has a budget
                    memory.complete()
        save(machine, place)
    except (UserfaultError, TimeoutError) as error:
        errors.show(error)
    else:
        kept = f"the guest as it stands here is kept: `userfault vm restore {place}`"
        terminal.say(kept, err=True)


def _say(outcome: Outcome) -> None:
    sent = outcome.moved
    if sent is None:
        terminal.say(f"it ran to its end here; sums {' '.join(outcome.sums)}")
        return
    broke = f", after {sent.breaks} breaks of the connection" if sent.breaks else ""
    terminal.say(
        f"moved {size_of(sent.pages * BASE_PAGE)} in {sent.seconds:.2f} s{broke}:"
        f" {size_of(sent.before)} in {sent.rounds} rounds before the switch,"
        f" {size_of(sent.asked)} asked for and {size_of(sent.pushed)} pushed after it;"
        f" it stood still for {sent.stopped_s * 1e3:.1f} ms"
    )
