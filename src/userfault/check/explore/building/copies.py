"""A shared copy in a scenario's world: its keeper, and clones mapped over it."""

from __future__ import annotations

from userfault.check.explore.building.world import Area, World
from userfault.kernel.memtypes import BASE_PAGE as PAGE
from userfault.kernel.modes import Mode
from userfault.model.files import filesystem
from userfault.model.files.open_files import O_NONBLOCK
from userfault.model.process import Process
from userfault.pager.drivers.model.memory import States
from userfault.uapi import mman

_SEALS = mman.F_SEAL_FUTURE_WRITE | mman.F_SEAL_SHRINK | mman.F_SEAL_GROW | mman.F_SEAL_SEAL


class Copy:
    """A copy, made as `pager/drivers/shared/keeper.py` makes one; `held`: what its first page has
    already, empty for nothing.

    `keeper`: its process.  `address`: where that has it.  `marks`: one byte a page.
    """

    def __init__(self, world: World, held: bytes = b"") -> None:
        self._world = world
        self.keeper = world.spawn()
        self._area = world.map("shmem", process=self.keeper)
        self.address = self._area.start
        self._filler = world.uffd(self._area, mode=Mode.MISSING, flags=O_NONBLOCK)
        self.file = self._area.file
        if held:
            filesystem.write(world.machine.files, self.file, 0, held)
        self.file.seals = _SEALS
        self.marks = States(bytes([bool(held)]))

    def handed_to(self, process: Process) -> int:
        """The filler, in a pager's process."""
        return self._world.hand_over(self._filler, process).fd

    def page(self, number: int) -> bytes:
        """What it has."""
        return filesystem.read(self.file, number * PAGE, PAGE)

    def clone(self) -> Area:
        """Memory of a new process, mapped over it."""
        client = self._world.spawn()
        return self._world.map(file=self.file, shared=False, process=client)
