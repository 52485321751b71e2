"""`userfault exec`: a program, with its mappings of files as lazy memory."""

from __future__ import annotations

import gc

import click

from userfault.cli.shared import terminal
from userfault.cli.shared.sizes import told
from userfault.exec.running import Runner
from userfault.exec.settings import MOST, Settings, Stored
from userfault.kernel.errors import UsageError
from userfault.linux.uffd import offer
from userfault.pager.core.policy import Policy

_EXAMPLE = "Example: userfault exec --map memory=/srv/store/vm -- qemu-system-x86_64 ..."


@click.command(
    epilog=_EXAMPLE,
    context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False},
)
@click.option(
    "--map",
    "maps",
    metavar="FILE[=SOURCE]",
    multiple=True,
    required=True,
    help="Mappings of FILE show SOURCE (STORE/NAME, a URL or a file; FILE itself). Repeatable.",
)
@click.option(
    "--resident",
    metavar="SIZE",
    callback=told,
    help="What may be in memory of one mapping at once. Default: what the machine leaves.",
)
@click.option("--spill", metavar="FOLDER", help="Pages that were written may go to a file there.")
@click.option("--background", is_flag=True, help="Fill everything while nothing waits.")
@click.option(
    "--fill-around",
    type=click.Choice(["cost", "order", "block", "page"]),
    default="cost",
    show_default=True,
    help="What comes with a page that is touched.",
)
@click.option("--working-set", metavar="FILE", help='Record it there, or replay it; "": none.')
@click.option(
    "--record",
    type=click.Choice(["once", "always", "never"]),
    default="once",
    show_default=True,
    help="When first touches are recorded.",
)
@click.option("--store2", metavar="STORE", help="Asked where the first store fails.")
@click.option("--cache", metavar="FOLDER", help='Keeps what was read of remote stores; "": none.')
@click.option("--cache-size", metavar="SIZE", callback=told, help="The most that it may take.")
@click.option(
    "--on-failure",
    type=click.Choice(["poison", "kill"]),
    default="poison",
    show_default=True,
    help="What a page that cannot be read costs: SIGBUS for its access, or the program.",
)
@click.option(
    "--user-mode-only",
    is_flag=True,
    help="Where nothing more is permitted: system calls on pages that are not in fail (EFAULT).",
)
@click.option("-v", "--verbose", is_flag=True, help="Say at the end what was mapped and filled.")
@click.argument("command", metavar="PROGRAM [ARGUMENT]...", nargs=-1, type=click.UNPROCESSED)
def exec(
    maps: tuple[str, ...],
    resident: int | None,
    spill: str | None,
    background: bool,
    fill_around: str,
    working_set: str | None,
    record: str,
    store2: str | None,
    cache: str | None,
    cache_size: int | None,
    on_failure: str,
    user_mode_only: bool,
    verbose: bool,
    command: tuple[str, ...],
) -> int:
    """Run PROGRAM, unchanged; its mappings of files are memory that fills itself on first touch.

    Ends with the program's exit code.
    """
    if not command:
        raise UsageError("no program", cause="none is named", cure="write it behind --")
    if len(maps) > MOST:
        raise UsageError(f"{len(maps)} files", cause=f"{MOST} are the most", cure="name fewer")
    if working_set and len(maps) > 1:
        raise UsageError(
            "--working-set with several files",
            cause="a set is of one",
            cure="leave it out: snapshots in stores have their own",
        )
    policy = Policy(
        background=background,
        fill_around=fill_around,
        on_failure=on_failure,
        resident_bytes=resident,
        spill=spill,
        record=record,
    )
    # Asked before anything is started: the program may do what this process may.
    offered, _ = offer(user_mode_only=None if user_mode_only else False)
    settings = Settings(
        policy, offered, user_mode_only, working_set, Stored(store2, cache, cache_size)
    )
    with Runner(maps, command, settings, _tell) as runner:
        gc.freeze()  # what is loaded stays (`cli.start`): no collection looks at it
        gc.enable()
        code = runner.run()
        for file in runner.files:
            if not file.maps:
                _tell(f"{file.path} was never mapped: the program may read it, or clear LD_PRELOAD")
            elif verbose:
                _tell(f"{file.path}: mapped {file.maps} times")
    return code


def _tell(text: str) -> None:
    terminal.say(f"userfault exec: {text}", err=True)
