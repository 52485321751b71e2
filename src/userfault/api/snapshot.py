"""`Snapshot`: memory of this program, stored layer by layer while the program runs on."""

from __future__ import annotations

import contextlib
import os
from typing import Any

from userfault.api.memory import Attribute, LazyMemory
from userfault.api.memory_input import Part
from userfault.api.point import Stopper
from userfault.api.undisturbed import Tie, undisturbed
from userfault.api.updating import Update, update
from userfault.kernel.errors import PagerError, UsageError
from userfault.linux.unpatched import original
from userfault.snapshot.errors import FormatError, StoreError
from userfault.snapshot.packing.pack import LEVEL
from userfault.snapshot.serving.layers import read_layer
from userfault.snapshot.stores.keys import check_name
from userfault.snapshot.stores.objects import Objects
from userfault.snapshot.stores.opening import open_objects
from userfault.snapshot.stores.place import place_for


class Snapshot:
    """Snapshots of one memory: the first whole, each other a layer of what was written since.

    `place`: `"STORE/NAME"`, as `userfault pack` takes it.  `memory`: what `track()` takes.  `base`:
    the name of a snapshot in the same store that is like the memory; the first one is a layer on
    it.  Of a `lazy()` memory that shows a snapshot of this store, that is the base; and where it
    was made with `track=True`, what is missing of it stays so, and is as in the base.  `mode`: see
    `track()`.  `level`: of zstd, 1 to 22.

    From now on the memory is tracked: it cannot be closed or resized before `close()`.  Safe in
    several threads.  Raises what `track()` does; UsageError for a place that is none.

    >>> memory = bytearray(1 << 20)
    >>> with Snapshot("/srv/memory/state", memory) as snapshot:  # doctest: +SKIP
    ...     snapshot.update()  # state
    ...     memory[0] = 1
    ...     snapshot.update()  # state-1: one page
    """

    def __init__(
        self,
        place: str | os.PathLike[str],
        memory: Any,
        *,
        base: str | None = None,
        mode: str | None = None,
        level: int = LEVEL,
    ) -> None:
        store, self._name = place_for(place, f"Snapshot({os.fsdecode(place)!r})")
        self._objects = open_objects(store)
        self._level = level
        self._lock = original("threading", "Lock")()
        shows = shown(memory, self._objects)
        self._base = shows if base is None else base
        self._number = int(self._base == self._name)
        self._part = Part(memory, mode)
        self._part.based = shows is not None and self._base == shows
        self._held = _Held(self._part)
        self._first_to_go = Attribute()
        self._tie = undisturbed(lambda: Tie(self._first_to_go, self._held))

    @property
    def mode(self) -> str:
        """How writes are seen: see `track()`."""
        return self._part.tracker.mode

    @property
    def newest(self) -> str | None:
        """The name of what was stored last, or `base`."""
        return self._base

    def update(self, name: str | None = None, *, consistent: bool = True) -> Update:
        """Store the memory as it is at one moment, while all threads run on: they stand still only
        while what they wrote last is copied, for some milliseconds.

        `name`: by default that of the place, then NAME-1, NAME-2, and so on.  `consistent=False`:
        nobody stands still, and pages that are written meanwhile may be of different moments.

        Raises StoreError (StoreFull; SnapshotInUse where the name is taken), SourceError for a page
        that cannot be read, and Unavailable where the threads cannot be stopped.  Then there is no
        such snapshot, and the next one has all that this one would have had.
        """
        with self._lock:
            if self._held.closed:
                raise UsageError("update()", cause="the snapshot is closed", cure="make a new one")
            if self._held.owner != os.getpid():
                raise PagerError(
                    "the memory belongs to another process",
                    cause="this process was forked from the one that tracks it",
                    cure="call it there",
                )
            suffix = f"-{self._number}" if self._number else ""
            made = update(
                self._objects,
                self._name + suffix if name is None else check_name(name),
                [self._part],
                kind="memory",
                base=self._base,
                stopper=self._held.stopper if consistent else None,
                level=self._level,
            )
            self._base = made.name
            self._number += name is None
            return made

    def close(self) -> None:
        """Track no more.  What was stored stays.  Idempotent."""
        with self._lock:
            undisturbed(self._tie.end)

    def __enter__(self) -> Snapshot:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def shown(memory: Any, objects: Objects) -> str | None:
    """The snapshot of this store that a lazy memory shows all of; it is still what it was then."""
    spec = memory._parts.shows if isinstance(memory, LazyMemory) else None
    if spec is None or spec.url != objects.url:
        return None
    with contextlib.suppress(StoreError, FormatError):
        if read_layer(objects, spec.name).digest == spec.digest:
            return spec.name
    return None


class _Held:
    """What is to be let go of when it goes."""

    def __init__(self, part: Part) -> None:
        self.stopper = Stopper()
        self.owner = os.getpid()
        self.closed = False
        self._part = part

    def end(self, *, gone: bool) -> None:
        """Let go of everything."""
        del gone
        self.closed = True
        self.stopper.close()
        self._part.tracker.close()

    def forked(self) -> None:
        """The helper is the parent's."""
        self.stopper.forked()
