"""From what the user names to an input: which kind of image a path is."""

from __future__ import annotations

import enum
import os

from userfault.kernel.errors import UsageError
from userfault.snapshot.inputs import cloud_hypervisor, criu, firecracker
from userfault.snapshot.inputs.file import FileInput
from userfault.snapshot.inputs.protocol import Holds, PageInput


class Kind(enum.Enum):
    """What an image may be."""

    AUTO = "auto"
    RAW = "raw"
    FIRECRACKER = "firecracker"
    CRIU = "criu"
    CLOUD_HYPERVISOR = cloud_hypervisor.KIND


def open_image_file(
    path: str,
    *,
    kind: Kind = Kind.AUTO,
    vmstate: str | None = None,
    task: int | None = None,
    diff: bool = False,
) -> PageInput:
    """The image at `path`: a file, or a folder of CRIU's, Firecracker's, Cloud Hypervisor's.

    `vmstate`: the state file of Firecracker that belongs to it.  `task`: which one of a CRIU dump.
    `diff`: holes mean "as in the base" (a diff snapshot of Firecracker).  Raises UsageError where
    it cannot be told what it is, FormatError where it is damaged.
    """
    if kind is Kind.CRIU or (kind is Kind.AUTO and is_dump(path)):
        return criu.CriuInput(path, criu.the_task(path, task))
    if task is not None:
        raise UsageError(
            f"{path} has no tasks", cause="it is no CRIU dump", cure="leave out --pid-of-image"
        )
    if kind is Kind.CLOUD_HYPERVISOR or (kind is Kind.AUTO and cloud_hypervisor.is_snapshot(path)):
        return cloud_hypervisor.opened(path)
    if kind is Kind.RAW:
        return FileInput(path, holes=Holds.BASE if diff else Holds.HOLE)
    return _file_or_firecracker(path, kind, vmstate, diff)


def _file_or_firecracker(path: str, kind: Kind, vmstate: str | None, diff: bool) -> PageInput:
    if os.path.isdir(path):
        pair = firecracker.pair_in(path)
        if pair is None:
            raise UsageError(
                f"cannot tell what image the folder {path} holds",
                cause="it has neither the pstree.img of a CRIU dump, nor the state.json of Cloud"
                " Hypervisor, nor one memory file and one state file of Firecracker",
                cure="name the memory file itself",
            )
        return firecracker.firecracker(pair[0], state=vmstate or pair[1], diff=diff)
    if firecracker.state_of(path) is not None:
        raise UsageError(
            f"{path} is the state file of a Firecracker snapshot, not its memory",
            cause="it begins with the number of such files",
            cure="name the memory file (mem_file_path when the snapshot was made)",
        )
    vmstate = vmstate or firecracker.state_beside(path)
    if kind is Kind.FIRECRACKER or vmstate is not None:
        return firecracker.firecracker(path, state=vmstate, diff=diff)
    return FileInput(path, holes=Holds.BASE if diff else Holds.HOLE)


def is_dump(path: str) -> bool:
    """Whether it is a folder with a CRIU dump."""
    return os.path.exists(os.path.join(path, "pstree.img"))
