"""`userfault vm steps`: a guest step by step, on the live kernel, on the model, or on both."""

from __future__ import annotations

import difflib

import click

from userfault.cli.shared import errors, json_output, terminal
from userfault.kernel.memtypes import BASE_PAGE, memory, memory_names
from userfault.model.profiles import PROFILES
from userfault.vmm.program import PATTERNS, Walk
from userfault.vmm.stepped.host import Host
from userfault.vmm.stepped.live import LiveHost
from userfault.vmm.stepped.modelled import ModelHost
from userfault.vmm.stepped.script import WAYS, Plan
from userfault.vmm.stepped.script import run as run_plan

SCHEMA = "userfault.vm.steps/1"
LIVE = "live"


@click.command()
@click.option(
    "--on",
    "kernels",
    type=click.Choice([LIVE, *PROFILES]),
    multiple=True,
    default=("next",),
    show_default=True,
    help="The kernel: the running one, or a model; two are compared.",
)
@click.option(
    "--memory",
    "name",
    type=click.Choice(memory_names()),
    default="guest_memfd",
    show_default=True,
    help="What the guest's memory is of.",
)
@click.option(
    "--way",
    type=click.Choice(list(WAYS)),
    default="minor",
    show_default=True,
    help="How it is served: COPY, CONTINUE, or protected and copied aside.",
)
@click.option("--kernel-mode", is_flag=True, help="Run the guest in kernel mode (CPL 0).")
@click.option("--cpus", type=click.IntRange(1, 8), default=1, show_default=True)
@click.option("--pages", type=click.IntRange(1, 4096), default=8, show_default=True)
@click.option("--pattern", type=click.Choice(PATTERNS), default="random", show_default=True)
@click.option("--json", "as_json", is_flag=True, help="Print the logs as JSON.")
def steps(
    kernels: tuple[str, ...],
    name: str,
    way: str,
    kernel_mode: bool,
    cpus: int,
    pages: int,
    pattern: str,
    as_json: bool,
) -> int:
    """Run a guest step by step, and tell each fault and what was done about it.

    With two kernels (`--on live --on 6.18`) their logs are compared: exit code 1 where they differ.
    """
    of = memory(name)
    small = pages * of.page_size // BASE_PAGE
    writes = way == "wp"
    steps_each = pages * 4 if of.page_size > BASE_PAGE else None
    walks = tuple(
        Walk(small, steps=steps_each, pattern=pattern, write=writes and not number)
        for number in range(cpus)
    )
    plan = Plan(of, pages, walks, way, not kernel_mode)
    logs = {kernel: run_plan(_host(kernel), plan) for kernel in kernels}
    first, *others = logs.values()
    same = all(log == first for log in others)
    if as_json:
        json_output.show(SCHEMA, {"logs": logs, "same": same})
    elif same:
        terminal.say("\n".join(first))
        if others:
            terminal.say(f"step for step the same on {', '.join(kernels)}")
    else:
        before, after = list(logs)[:2]
        lines = difflib.unified_diff(logs[before], logs[after], before, after, lineterm="")
        terminal.say("\n".join(lines))
    return 0 if same else errors.FAILED


def _host(kernel: str) -> Host:
    return LiveHost() if kernel == LIVE else ModelHost(PROFILES[kernel])
