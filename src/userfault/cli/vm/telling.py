"""How guests are told of, and what the commands share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

from userfault.cli.shared import terminal
from userfault.cli.shared.sizes import size
from userfault.kernel.memtypes import BASE_PAGE
from userfault.vmm.program import PATTERNS
from userfault.vmm.trial import Resumed, Saved

F = TypeVar("F", bound=Callable[..., Any])


def guest_options(command: F) -> F:
    """Options that say what the guest is."""
    for option in (
        click.option(
            "--seconds",
            type=click.FloatRange(0.01, 3600),
            default=1.0,
            show_default=True,
            help="How long the guest is to run, about.",
        ),
        click.option(
            "--pattern",
            type=click.Choice(PATTERNS),
            default="random",
            show_default=True,
            help="In which order it touches its pages.",
        ),
        click.option("--kernel-mode", is_flag=True, help="Run it in kernel mode (CPL 0)."),
        click.option(
            "--cpus",
            type=click.IntRange(1, 64),
            default=2,
            show_default=True,
            help="How many virtual CPUs; each has a part of the memory.",
        ),
        click.option(
            "--size",
            type=click.IntRange(2, 65536),
            default=64,
            show_default=True,
            metavar="MIB",
            help="How much memory it has.",
        ),
    ):
        command = option(command)
    return command


def show_saved(saved: Saved) -> None:
    """One line."""
    mode = "user" if saved.user else "kernel"
    left = f"{sum(saved.left):,} steps left" if any(saved.left) else "they had ended before"
    terminal.say(
        f"{saved.place}: {size(saved.pages * BASE_PAGE)}, {saved.cpus} CPUs in {mode} mode, saved"
        f" while they ran (still for {saved.stopped_ms:.1f} ms, {left});"
        f" sums {' '.join(saved.sums)}"
    )


def show_resumed(resumed: Resumed, expected: list[str] | None = None) -> None:
    """A line, and what is to be known beside it."""
    if resumed.failed:
        terminal.say(f"{resumed.memory}: not run: {resumed.failed}")
        return
    verdict = ""
    if expected is not None:
        verdict = ", the same" if right(resumed, expected) else ", WRONG"
    came = f"{resumed.faults:,} faults, {resumed.filled:,} pages came in"
    if not resumed.filled:
        came = "filled before it ran"
    terminal.say(
        f"{resumed.memory}: ready after {resumed.ready_ms:.0f} ms, ran {resumed.seconds:.2f} s,"
        f" {came}; sums {' '.join(resumed.sums)}{verdict}"
    )
    for told in resumed.told:
        terminal.say(f"  {told}")


def right(resumed: Resumed, expected: list[str]) -> bool:
    """Whether it ended as the guest that was saved."""
    return resumed.sums == expected
