"""`userfault detach`: an image less, for a daemon that runs."""

from __future__ import annotations

import click

from userfault.cli.serve.options import control
from userfault.serve.talking import Line


@click.command(epilog="Example: userfault detach --control /run/userfault/control vm7")
@control
@click.argument("name", metavar="NAME")
def detach(control: str, name: str) -> None:
    """Show an image to nobody more, and shut its sockets.  Who is served is served on."""
    line = Line.to(control)
    line.ask("detach", name=name)
    line.close()
