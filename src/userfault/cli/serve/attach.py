"""`userfault attach`: an image more, for a daemon that runs."""

from __future__ import annotations

import click

from userfault.api import cloud_hypervisor as restoring
from userfault.api import daemon
from userfault.cli.serve.options import control, groups, named
from userfault.cli.shared import terminal
from userfault.serve.talking import Line

_EXAMPLE = "Example: userfault attach --firecracker /run/vm7.sock /srv/vm7/memory"


@click.command(epilog=_EXAMPLE)
@control
@click.option("--firecracker", metavar="PATH", help="Listen there, and show it to who comes.")
@click.option("--pid", type=click.IntRange(1), help="Show it to this process, once it connects.")
@click.option(
    "--cloud-hypervisor",
    metavar="PATH",
    help="Restore it into the Cloud Hypervisor that listens there (receive-migration).",
)
@click.option(
    "--connections",
    type=click.IntRange(1, 16),
    default=1,
    show_default=True,
    help="For page faults, as many as that Cloud Hypervisor takes.",
)
@click.option("--paused", is_flag=True, help="Leave a VM that is restored so paused.")
@click.option("--group", metavar="GROUP", help="Who may connect, beside the owner of the socket.")
@click.argument("what", metavar="[NAME=]FILE|STORE/NAME")
def attach(
    control: str,
    firecracker: str | None,
    pid: int | None,
    cloud_hypervisor: str | None,
    connections: int,
    paused: bool,
    group: str | None,
    what: str,
) -> None:
    """Have a daemon show an image: by a socket of its own, to one process, or both.

    An image of a name that is there already takes its place, for clients that come later.
    """
    name, place = named(what)
    line = Line.to(control)
    if cloud_hypervisor is not None:
        vmm = restoring.restore(
            line, cloud_hypervisor, place, resume=not paused, connections=connections
        )
        line.close()
        terminal.say(f"{name} is restored in process {vmm}, and served")
        return
    members = groups((group,) if group else ())
    daemon.attach(line, name, place, firecracker, pid=pid, group=members[0] if members else None)
    line.close()
    terminal.say(f"{name} is shown" + (f" at {firecracker}" if firecracker else ""))
