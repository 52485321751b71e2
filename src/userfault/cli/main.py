"""The command `userfault`: its subcommands, and what their errors become."""

from __future__ import annotations

import importlib
import os
import sys
from typing import NoReturn

import click

from userfault.cli.shared import errors, interrupts, terminal
from userfault.kernel.errors import UserfaultError
from userfault.version import __version__

_EPILOG = (
    "Exit codes: 0 it worked; 1 it ran and found a failure; 2 it was called wrongly; 3 this system"
    " lacks what it needs; 4 snapshots that were compared differ; 130 Ctrl-C; others are told in"
    " docs/commands.md."
)

_SERVE = ("serve", "exec", "sessions", "attach", "detach", "drain", "top")
_STORE = ("pack", "ls", "info", "verify", "diff", "export", "squash", "rm", "gc", "record")
# Where each command is; the file has its name, and so has what is in it.
_COMMANDS = {
    "probe": "check.probe",
    "check": "check.check",
    "client": "client.client",
    "contract": "explore.contract",
    "demo": "demo.demo",
    "doctor": "check.doctor",
    "explore": "explore.explore",
    "lab": "lab.lab",
    "model": "model.model",
    "plan": "trace.plan",
    "receive": "vm.receive",
    "report": "trace.report",
    "send": "vm.send",
    "simulate": "explore.simulate",
    "vm": "vm.vm",
    **{name: f"serve.{name}" for name in _SERVE},
    **{name: f"store.{name}" for name in _STORE},
}


class _Commands(click.Group):
    """Loads the command that was asked for, and none of the others."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        del ctx
        return sorted(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        del ctx
        if cmd_name not in _COMMANDS:
            return None
        module = importlib.import_module(f"userfault.cli.{_COMMANDS[cmd_name]}")
        command: click.Command = getattr(module, cmd_name)
        return command


@click.group(
    cls=_Commands, epilog=_EPILOG, context_settings={"help_option_names": ["-h", "--help"]}
)
@click.version_option(__version__, "-V", "--version", prog_name="userfault")
def userfault() -> None:
    """Serve page faults from user space, for every memory type that Linux has."""


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
