"""The options of `check`, and of `lab run KERNEL... -- check`, which takes the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from userfault.kernel.errors import UsageError

PROGRAMS = 2000

HELP = """Check what a kernel does against what kernels promise.

Each statement runs in processes of its own, with a deadline.  Exit code 0: none failed and
none was lost; 3: none could run.
"""

OPTIONS: tuple[click.Parameter, ...] = (
    click.Option(
        ["--only"],
        metavar="WHAT",
        multiple=True,
        help="Numbers (5, 19-23), subjects (handshake) or memories (hugetlb), separated by commas.",
    ),
    click.Option(["--list", "as_list"], is_flag=True, help="List the statements; run none."),
    click.Option(
        ["--explain"], metavar="N", type=int, help="Run statement N and show every call of it."
    ),
    click.Option(["--json", "as_json"], is_flag=True, help="Print JSON, one object a line."),
    click.Option(
        ["--junit"],
        metavar="FILE",
        type=click.Path(path_type=Path),
        help="Write a JUnit report too.",
    ),
    click.Option(
        ["--model"],
        metavar="[V]",
        is_flag=False,
        flag_value="",
        help="Check the model kernel (of V, as 6.18), not the running one.",
    ),
    click.Option(
        ["--against"], metavar="V", help="... and the model of V: show where they differ."
    ),
    click.Option(
        ["--fuzz"], is_flag=True, help="Run random programs on this kernel and on its model."
    ),
    click.Option(
        ["--programs"], metavar="N", type=click.IntRange(1), help="How many (default: 2000)."
    ),
    click.Option(
        ["--seed"], metavar="S", type=int, help="Of --fuzz: the same seed, the same programs."
    ),
    click.Option(
        ["--jobs"], metavar="N", type=click.IntRange(1), help="Of --fuzz: at once (CPUs)."
    ),
    click.Option(["--program"], metavar="TEXT", help="Run one such program and show every call."),
    click.Option(["--profile"], metavar="V", help="The model's version, as 6.18 (default: next)."),
    click.Option(
        ["--design"], metavar="NAME", help="How the model's core asks memory types, as merged."
    ),
)


def parse(called: str, arguments: list[str]) -> dict[str, Any]:
    """What is asked for in the words behind `called`.  Raises as the command `check` does."""
    wanted = click.Command("check", params=list(OPTIONS), help=HELP)
    found = wanted.make_context(called, arguments).params
    refuse_mixtures(found)
    return found


def refuse_mixtures(wanted: dict[str, Any]) -> None:
    """Raise UsageError for options that do not go together."""
    of_fuzz = [name for name in ("programs", "seed", "jobs") if wanted.get(name) is not None]
    if of_fuzz and not wanted["fuzz"]:
        raise UsageError(f"--{of_fuzz[0]} without --fuzz", cure="add --fuzz")
    of_statements = ("only", "as_list", "explain", "as_json", "junit")
    if (wanted["fuzz"] or wanted["program"] is not None) and any(map(wanted.get, of_statements)):
        raise UsageError(
            "--fuzz and --program run no statements",
            cure="leave out the options that choose or report them",
        )
    of_model = [name for name in ("profile", "design", "against") if wanted[name]]
    if of_model and wanted["model"] is None:
        raise UsageError(f"--{of_model[0]} without --model", cure="add --model")
    if wanted["profile"] and wanted["model"]:
        raise UsageError("two profiles for one model", cure="name it once: --model V")
    of_runs = [name for name in ("as_list", "explain", "junit") if wanted[name]]
    if wanted["against"] and of_runs:
        raise UsageError(
            "--against compares runs of statements, or of random programs",
            cure="leave out --list, --explain and --junit",
        )
