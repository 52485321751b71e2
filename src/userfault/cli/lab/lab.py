"""`userfault lab`: other real kernels, booted in QEMU."""

from __future__ import annotations

import click

from userfault.cli.lab.fetch import fetch
from userfault.cli.lab.list import list_
from userfault.cli.lab.matrix import matrix
from userfault.cli.lab.reproduce import reproduce
from userfault.cli.lab.run import run


@click.group()
def lab() -> None:
    """Boot other real kernels in QEMU, and run checks or commands inside.

    No KVM and no privilege is needed; what it fetches is unpacked in a cache folder, nothing is
    installed (but QEMU, where `fetch --qemu` asks for it).
    """


for command in (list_, fetch, run, reproduce, matrix):
    lab.add_command(command)
