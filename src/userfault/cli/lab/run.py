"""`userfault lab run KERNEL... -- check|CMD`."""

from __future__ import annotations

import os
from pathlib import Path

import click

from userfault.check.selection import narrow, select
from userfault.check.statements import load
from userfault.check.words.statement import SHMEM
from userfault.cli.lab import command, fuzz
from userfault.cli.lab.check import Wishes, run_all
from userfault.cli.lab.jobs import MEMORY_MIB, Setup
from userfault.cli.lab.names import CACHE, every, find
from userfault.cli.shared import terminal
from userfault.cli.shared.checking.options import parse
from userfault.kernel.errors import UsageError
from userfault.lab.machine import qemu
from userfault.lab.outside.build import module_for
from userfault.lab.store import Kernel, Store, own_kernel
from userfault.lab.suites import SUITES

_CHECK = "check"


class _Split(click.Command):
    """What stands after `--` is not ours: click alone would take the `--` away."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        ours, inner = args, []
        if "--" in args:
            at = args.index("--")
            ours, inner = args[:at], args[at + 1 :]
        ctx.meta["inner"] = inner
        return super().parse_args(ctx, ours)


@click.command(cls=_Split, options_metavar="[OPTIONS]", short_help="Run something on kernels.")
@CACHE
@click.option(
    "--kernel",
    "vmlinuz",
    metavar="VMLINUZ",
    type=click.Path(path_type=Path, dir_okay=False, exists=True),
    help="A kernel of your own.",
)
@click.option(
    "--modules",
    metavar="DIR",
    type=click.Path(path_type=Path, file_okay=False, exists=True),
    help="Its modules, as /lib/modules/RELEASE.",
)
@click.option("--guests", metavar="N", type=click.IntRange(1), help="At once (default: CPUs).")
@click.option("--memory", metavar="MIB", type=click.IntRange(256), help="Of a guest.")
@click.option("--append", metavar="WORDS", default="", help="Words for the kernel's command line.")
@click.option(
    "--with",
    "files",
    metavar="PATH",
    multiple=True,
    type=click.Path(path_type=Path, exists=True, resolve_path=True),
    help="A file or folder that COMMAND finds at the same path.",
)
@click.option(
    "--module",
    is_flag=True,
    help="With the memory type of a module, which stands for shmem in `check` (7.1; /outside).",
)
@click.option("--cpus", metavar="N", type=click.IntRange(1), help="Of COMMAND (default: 1).")
@click.option(
    "--timeout",
    metavar="SECONDS",
    type=click.FloatRange(0, min_open=True),
    help="Of COMMAND in each machine (default: none).",
)
@click.argument("kernels", metavar="[KERNEL]... -- check [OPTIONS] | COMMAND...", nargs=-1)
@click.pass_context
def run(
    ctx: click.Context,
    kernels: tuple[str, ...],
    cache: Path | None,
    vmlinuz: Path | None,
    modules: Path | None,
    guests: int | None,
    memory: int | None,
    append: str,
    files: tuple[Path, ...],
    module: bool,
    cpus: int | None,
    timeout: float | None,
) -> int:
    """Boot each KERNEL, and run `check` against it or a command inside.

    A KERNEL is a suite (its newest kernel is fetched if none is there), a release that was
    fetched (7.3), or `all`.  `check` takes the options of `userfault check`.
    """
    inner: list[str] = ctx.meta["inner"]
    if not inner:
        raise UsageError("nothing to run", cure="userfault lab run KERNEL... -- check")
    if modules is not None and vmlinuz is None:
        raise UsageError("--modules without --kernel", cure="add --kernel VMLINUZ")
    if inner[0] == _CHECK and (cpus or timeout):
        raise UsageError(
            "check has one processor a machine, and a deadline for each case",
            cure="leave out --cpus and --timeout; --guests says how many machines run at once",
        )
    qemu()
    store = Store(cache)
    found = [own_kernel(store, vmlinuz, modules)] if vmlinuz else []
    found += _find(store, kernels)
    if not found:
        raise UsageError("no kernel named", cure=f"name one of {', '.join(SUITES)}, or `all`")
    setups = [
        Setup(kernel, memory or MEMORY_MIB, append, _module(store, kernel) if module else "")
        for kernel in found
    ]
    if inner[0] == _CHECK:
        return _check(setups, inner[1:], guests or os.cpu_count() or 1)
    return command.run_everywhere(setups, inner, files, memory, cpus or 1, timeout)


def _find(store: Store, names: tuple[str, ...]) -> list[Kernel]:
    found: list[Kernel] = []
    for name in names:
        found += every(store, again=False) if name == "all" else [find(store, name)]
    return list({kernel.vmlinuz: kernel for kernel in found}.values())


def _module(store: Store, kernel: Kernel) -> str:
    """The module for a kernel, built unless it is there."""
    return str(module_for(store, kernel, lambda told: terminal.say(told, err=True)))


def _check(setups: list[Setup], arguments: list[str], guests: int) -> int:
    wanted = parse("userfault lab run ... -- check", arguments)
    if wanted["model"] is not None or wanted["as_list"]:
        raise UsageError("the lab runs real kernels", cure="leave out --model and --list")
    if wanted["jobs"]:
        raise UsageError("a guest runs one program at a time", cure="use --guests for --jobs")
    if wanted["program"] is not None:
        return fuzz.replay(setups, wanted["program"])
    if wanted["fuzz"]:
        return fuzz.fuzz(setups, wanted["programs"], wanted["seed"], guests)
    only: tuple[str, ...] = wanted["only"]
    explain: int | None = wanted["explain"]
    if explain is not None:
        only = (*only, str(explain))
    chosen = select(load(), only)
    if setups[0].outside:  # its files stand for those of shmem
        chosen = narrow(chosen, frozenset(SHMEM))
    wishes = Wishes(
        chosen=chosen,
        guests=guests,
        as_json=wanted["as_json"],
        junit=wanted["junit"],
        explain=explain is not None,
    )
    return run_all(setups, wishes)
