"""`userfault vm`: guests of KVM whose pages come when they touch them."""

from __future__ import annotations

import click

from userfault.cli.vm.restore import restore
from userfault.cli.vm.run import run
from userfault.cli.vm.save import save
from userfault.cli.vm.steps import steps


@click.group()
def vm() -> None:
    """Run a small virtual machine of KVM, save it while it runs, and restore it lazily.

    Its guests walk over their memory, add up what they read, and write.  `steps` runs one step by
    step on the model kernel, too, for which no KVM is needed.
    """


for command in (run, save, restore, steps):
    vm.add_command(command)
