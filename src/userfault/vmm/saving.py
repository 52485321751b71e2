"""Saving a machine into a store while its guest runs on: memory and registers of one moment.

All pages are write-protected, then read while the guest writes; what it writes meanwhile is seen
and read again.  At the end its CPUs are paused, their registers taken, the last pages copied aside,
and the guest goes on: so it stands still for milliseconds, however large its memory is.
"""

from __future__ import annotations

import base64
import os
import time
from typing import Any

import msgspec

from userfault.api.memory_input import Part
from userfault.api.point import Point, Stopper
from userfault.api.point_main import Wanted
from userfault.api.snapshot import shown
from userfault.api.updating import Update, update
from userfault.kernel.memtypes import BASE_PAGE as PAGE
from userfault.snapshot.packing.pack import LEVEL
from userfault.snapshot.stores.keys import check_name
from userfault.snapshot.stores.opening import open_objects
from userfault.snapshot.stores.place import place_for
from userfault.vmm.guest_memfd import GuestMemory
from userfault.vmm.machine import Machine

KIND = "machine"
STATE = "machine"  # the word of the manifest that has the state, in base64


class Saver:
    """Snapshots of a machine: the first whole, each other a layer of what was written since.

    `place`: `"STORE/NAME"`.  `mode`: how writes are seen, as for `track()`: `async` (6.7),
    `messages` or `compare`; memory of a guest_memfd is compared, since its guest writes past every
    mapping.  The memories are tracked from now on; close it before the machine.

    Raises what `Snapshot` does.
    """

    def __init__(
        self,
        machine: Machine,
        place: str | os.PathLike[str],
        *,
        mode: str | None = None,
        level: int = LEVEL,
    ) -> None:
        store, self._name = place_for(place, f"saving a machine as {os.fsdecode(place)!r}")
        self._objects = open_objects(store)
        self._level = level
        self._about = {"cpus": str(len(machine.cpus))}
        self._stopper = _Pausing(machine, self._about)
        self._parts: list[Part] = []
        self._base = _base(machine, self._objects)
        self._number = int(self._base == self._name)
        try:
            first = 0
            for memory, length in zip(machine.memories, machine.lengths, strict=True):
                compared = "compare" if isinstance(memory, GuestMemory) else mode
                part = Part(memory, compared)
                self._parts.append(part)
                part.first, part.based = first, self._base is not None
                first += length // PAGE
        except BaseException:
            self.close()
            raise

    def update(self, name: str | None = None) -> Update:
        """Store the machine as it is at one moment; whether it runs or is paused, it stays so.

        `name`: by default that of the place, then NAME-1, NAME-2, and so on.  `stopped_s` of the
        answer is for how long the CPUs stood still.  Raises what `Snapshot.update` does, and
        TimeoutError where a CPU waits for a page for too long.
        """
        suffix = f"-{self._number}" if self._number else ""
        made = update(
            self._objects,
            self._name + suffix if name is None else check_name(name),
            self._parts,
            kind=KIND,
            base=self._base,
            stopper=self._stopper,
            about=self._about,
            level=self._level,
        )
        self._base = made.name
        self._number += name is None
        return made

    def close(self) -> None:
        """Track no more.  What was stored stays.  Idempotent."""
        self._stopper.close()
        for part in self._parts:
            part.tracker.close()
        self._parts = []

    def __enter__(self) -> Saver:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def save(machine: Machine, place: str | os.PathLike[str], *, mode: str | None = None) -> Update:
    """Store a machine once: see `Saver`."""
    with Saver(machine, place, mode=mode) as saver:
        return saver.update()


def _base(machine: Machine, objects: Any) -> str | None:
    """The snapshot of this store that all memories show parts of, in their order."""
    return shown(machine.memories[0], objects) if len(machine.memories) == 1 else None


class _Pausing(Stopper):
    """At the one moment the CPUs stand still too, and their registers are taken."""

    def __init__(self, machine: Machine, about: dict[str, str]) -> None:
        super().__init__()
        self._machine = machine
        self._about = about

    def copy(self, wanted: Wanted, fds: tuple[int, int]) -> Point:
        begun = time.monotonic()
        with self._machine.paused():
            self._about[STATE] = base64.b64encode(self._machine.state()).decode()
            point = super().copy(wanted, fds)
        return msgspec.structs.replace(point, stopped_s=time.monotonic() - begun)
