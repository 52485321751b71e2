"""The command `userfault`: its subcommands, and what their errors become."""

from __future__ import annotations

import os
import sys
from typing import NoReturn

import click

from userfault.cli.check.check import check
from userfault.cli.check.probe import probe
from userfault.cli.demo.demo import demo
from userfault.cli.explore.explore import explore
from userfault.cli.lab.lab import lab
from userfault.cli.shared import errors, interrupts, terminal
from userfault.cli.store.diff import diff
from userfault.cli.store.export import export
from userfault.cli.store.gc import gc
from userfault.cli.store.info import info
from userfault.cli.store.ls import ls
from userfault.cli.store.pack import pack
from userfault.cli.store.rm import rm
from userfault.cli.store.squash import squash
from userfault.cli.store.verify import verify
from userfault.kernel.errors import UserfaultError
from userfault.version import __version__

_EPILOG = (
    "Exit codes: 0 it worked; 1 it ran and found a failure; 2 it was called wrongly; 3 this system"
    " lacks what it needs; 4 snapshots that were compared differ; 130 Ctrl-C."
)


@click.group(epilog=_EPILOG, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, "-V", "--version", prog_name="userfault")
def userfault() -> None:
    """Serve page faults from user space, for every memory type that Linux has."""


userfault.add_command(probe)
userfault.add_command(check)
userfault.add_command(demo)
userfault.add_command(explore)
userfault.add_command(lab)
for command in (pack, ls, info, verify, diff, export, squash, rm, gc):
    userfault.add_command(command)


def main() -> NoReturn:
    """The console script."""
    interrupts.unwind_on_signals()
    terminal.prepare()
    sys.exit(_run())


def _run() -> int:
    """Run the command line; its exit code."""
    try:
        # Not standalone: click would turn Ctrl-C into exit code 1.
        returned = userfault.main(prog_name="userfault", standalone_mode=False)
        sys.stdout.flush()
    except click.ClickException as error:
        terminal.show_usage(error)
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        terminal.say("userfault: interrupted", err=True)
        return errors.INTERRUPTED
    except BrokenPipeError:
        # Whoever read our output has gone (`| head`): say nothing, also not when Python ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return errors.FAILED
    except (UserfaultError, OSError) as error:
        errors.show(error)
        return errors.code(error)
    except (ImportError, MemoryError, RuntimeError) as error:
        limit = errors.of_a_limit(error)
        if limit is None:
            raise
        errors.show(limit)
        return errors.code(limit)
    return returned if isinstance(returned, int) else 0


if __name__ == "__main__":
    main()
