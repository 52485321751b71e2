"""What this kernel does for each memory type: tried, not guessed from its version.

Each memory type is mapped (small) and registered in each mode; what the kernel answers is the
cell.  Memory that cannot be made here says why.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import msgspec

from userfault.kernel.errors import KernelError, UserfaultError
from userfault.kernel.memtypes import TRAITS, Memory
from userfault.kernel.modes import Feature, Ioctls, Mode, names
from userfault.linux import reasons
from userfault.linux.opening import open_userfaultfd
from userfault.linux.process import LiveProcess
from userfault.linux.uffd import LiveUserfaultfd, offer

# Why a registration of a memory in a mode is refused, where the reason is known.
why_not = reasons.why_not

MODES = (Mode.MISSING, Mode.MINOR, Mode.WP, Mode.RWP)


class Cell(msgspec.Struct, frozen=True):
    """One memory in one mode: the ioctls that a registration returned, or why there is none."""

    memory: str
    page_size: int
    mode: str
    ioctls: list[str]
    reason: str = ""

    @property
    def works(self) -> bool:
        return bool(self.ioctls)


class Report(msgspec.Struct, frozen=True):
    """The whole answer for this kernel and this user."""

    kernel: str
    opened_by: str
    user_mode_only: bool
    features: list[str]
    missing_features: list[str]
    general_ioctls: list[str]
    cells: list[Cell]


def memories() -> Iterator[Memory]:
    """Every memory that exists on any kernel: type, page size, shared or private."""
    for kind, traits in TRAITS.items():
        for page_size in traits.page_sizes:
            if traits.shareable:
                yield Memory(kind, page_size, True)
            if traits.private:
                yield Memory(kind, page_size, False)


def probe(*, grow_pool: bool = False) -> Report:
    """Try every memory in every mode; raises OpenRefused where no userfaultfd can be opened."""
    opened = open_userfaultfd()
    os.close(opened.fd)
    offered, general = offer()
    cells = [cell for memory in memories() for cell in _row(memory, offered, grow_pool)]
    return Report(
        kernel=os.uname().release,
        opened_by=opened.way,
        user_mode_only=opened.user_mode_only,
        features=[feature.name or "" for feature in offered],
        missing_features=[feature.name or "" for feature in Feature if feature not in offered],
        general_ioctls=names(general, Ioctls).split("|"),
        cells=cells,
    )


def _row(memory: Memory, offered: Feature, grow_pool: bool) -> Iterator[Cell]:
    try:
        mapping = LiveProcess().map(memory, memory.page_size, grow_pool=grow_pool)
    except UserfaultError as error:
        for mode in MODES:
            yield Cell(memory.name, memory.page_size, names(mode), [], str(error))
        return
    try:
        for mode in MODES:
            yield _cell(memory, mapping.address, mode, offered)
    finally:
        mapping.close()


def _cell(memory: Memory, address: int, mode: Mode, offered: Feature) -> Cell:
    reason = ""
    ioctls: list[str] = []
    if mode is Mode.RWP and Feature.RWP not in offered:
        reason = "read-write-protect faults came with Linux 7.3"
    else:
        with LiveUserfaultfd.open(Feature.RWP if mode is Mode.RWP else Feature(0)) as uffd:
            try:
                granted = uffd.register(address, memory.page_size, mode)
                ioctls = names(granted, Ioctls).split("|")
            except KernelError as error:
                reason = why_not(memory, mode) or str(error)
    return Cell(memory.name, memory.page_size, names(mode), ioctls, reason)
