"""`userfault drain`: end a daemon without leaving anybody behind."""

from __future__ import annotations

import click

from userfault.cli.serve.options import control
from userfault.cli.shared import terminal
from userfault.serve.talking import Line


@click.command(epilog="Example: userfault drain --control /run/userfault/control")
@control
@click.option(
    "--no-fill", is_flag=True, help="Serve who is there until they end, and fill nothing ahead."
)
def drain(control: str, no_fill: bool) -> None:
    """Let nobody in any more; fill who is there as a whole; then the daemon ends."""
    line = Line.to(control)
    left = line.ask("drain", fill=not no_fill)["left"]
    line.close()
    terminal.say(f"{left} clients left")
