"""`userfault vm run`: save a guest while it runs, and go on with it on every type of memory."""

from __future__ import annotations

import tempfile
from pathlib import Path

import click

from userfault.cli.shared import errors, json_output, terminal
from userfault.cli.vm.telling import guest_options, right, show_resumed, show_saved
from userfault.kernel.errors import MemoryUnavailable
from userfault.kernel.memtypes import BASE_PAGE, MIB
from userfault.linux.kvm import Vm
from userfault.vmm.trial import MEMORIES, resume_one, save_one

SCHEMA = "userfault.vm.run/1"


@click.command()
@guest_options
@click.option(
    "--memory",
    "memories",
    type=click.Choice(MEMORIES),
    multiple=True,
    default=MEMORIES,
    help="Memory type to go on with; may be repeated.  [default: all]",
)
@click.option("--if-there", is_flag=True, help="Where there is no KVM, say so and end with 0.")
@click.option("--json", "as_json", is_flag=True, help="Print what was found as JSON.")
def run(
    size: int,
    cpus: int,
    kernel_mode: bool,
    pattern: str,
    seconds: float,
    memories: tuple[str, ...],
    if_there: bool,
    as_json: bool,
) -> int:
    """Run a guest, save it while it runs, and go on with it on every type of memory.

    Each time its pages come when the guest touches them, and what its CPUs add up must be what the
    guest that was saved has added up in the end.  Exit code 1 where it is not, 3 where a memory
    is not to be had here.
    """
    try:
        Vm().close()
    except MemoryUnavailable as error:
        if not if_there:
            raise
        terminal.say(f"no guest was run: {error}")
        return 0
    with tempfile.TemporaryDirectory(prefix="userfault-vm-") as folder:
        saved = save_one(
            str(Path(folder) / "store" / "vm"),
            pages=size * MIB // BASE_PAGE,
            cpus=cpus,
            user=not kernel_mode,
            seconds=seconds,
            pattern=pattern,
        )
        if not as_json:
            show_saved(saved)
        found = []
        for memory in memories:
            found.append(resume_one(saved.place, memory))
            if not as_json:
                show_resumed(found[-1], saved.sums)
    if as_json:
        json_output.show(SCHEMA, {"saved": saved, "resumed": found})
    wrong = [each for each in found if not each.failed and not right(each, saved.sums)]
    if wrong or any(each.failed and not each.lacking for each in found):
        return errors.FAILED
    return errors.LACKING if any(each.lacking for each in found) and not if_there else 0
