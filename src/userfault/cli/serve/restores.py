"""VMs that a daemon restores when it starts: each as soon as its VMM listens."""

from __future__ import annotations

import threading

from userfault.api.cloud_hypervisor import restore
from userfault.api.daemon import Daemon
from userfault.cli.shared import errors, terminal
from userfault.kernel.errors import UsageError, UserfaultError

_LISTENS_S = 3600.0


def snapshot_for(paths: tuple[str, ...], named: tuple[str, ...]) -> str:
    """What they are restored from.  Raises UsageError where that is not one thing."""
    if paths and len(named) != 1:
        raise UsageError(
            f"--cloud-hypervisor {paths[0]}",
            cause=f"{len(named)} snapshots are named, and it is restored from one",
            cure="name one, or use `userfault attach --cloud-hypervisor` for each",
        )
    return named[0] if paths else ""


def begin(daemon: Daemon, paths: tuple[str, ...], what: str) -> None:
    """In threads: the daemon serves others meanwhile."""
    for path in paths:
        threading.Thread(target=_one, args=(daemon, path, what), daemon=True).start()


def _one(daemon: Daemon, path: str, what: str) -> None:
    try:
        vmm = restore(daemon.line, path, what, wait_s=_LISTENS_S)
    except UserfaultError as error:
        errors.show(error)
    else:
        terminal.say(f"{what} is restored in process {vmm}, and served")
