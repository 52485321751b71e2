"""`Checkpoint`: arrays kept in a store, of which each save writes only what has changed."""

from __future__ import annotations

import contextlib
import os
import re
from typing import TYPE_CHECKING, Any

import msgspec

from userfault.api import kept_arrays
from userfault.api.arrays import numpy_for
from userfault.api.kept_arrays import Kept
from userfault.api.lazy import lazy
from userfault.api.memory import Attribute, LazyMemory
from userfault.api.memory_input import Part
from userfault.api.pager import Pager
from userfault.api.point import Stopper
from userfault.api.undisturbed import Tie, undisturbed
from userfault.api.updating import Update, update
from userfault.kernel.errors import PagerError, UsageError
from userfault.kernel.numbers import flag, whole
from userfault.linux.unpatched import original
from userfault.snapshot.errors import NoSuchSnapshot, SnapshotInUse
from userfault.snapshot.inputs.protocol import PAGE
from userfault.snapshot.packing.pack import LEVEL
from userfault.snapshot.serving.image import open_image
from userfault.snapshot.stores.keys import SNAPSHOTS, check_name
from userfault.snapshot.stores.opening import open_objects
from userfault.snapshot.upkeep.remove import remove

if TYPE_CHECKING:
    from numpy.typing import NDArray

_SPARSE = 2  # an image is laid out anew when it is this many times as long as its arrays


class Checkpoint:
    """Arrays under a name in a store: `save(**arrays)` and `load()`.

    `store`: a folder, or a URL as `s3://bucket/prefix`.  `name`: of the snapshots, which are
    NAME.000001, NAME.000002, and so on.  `keep`: how many of the newest stay; None: all.  `mode`:
    how writes are seen, see `track()`.  `consistent`: see `Snapshot.update`.  `level`: of zstd.

    An array that was saved is tracked, and kept, until it is saved no more, or `close()`; it cannot
    be resized in place meanwhile.  Safe in several threads.

    Raises Unavailable without NumPy; UsageError, StoreError for the store.

    >>> import numpy
    >>> weights = numpy.zeros(1_000_000)
    >>> with Checkpoint("/srv/memory", "model") as checkpoint:  # doctest: +SKIP
    ...     checkpoint.save(weights=weights, step=0)
    ...     weights[17] = 1.0
    ...     checkpoint.save(weights=weights, step=1)  # one page, and the step
    ...     checkpoint.load()["weights"][17]
    1.0
    """

    def __init__(
        self,
        store: str | os.PathLike[str],
        name: str,
        *,
        keep: int | None = None,
        mode: str | None = None,
        consistent: bool = True,
        level: int = LEVEL,
    ) -> None:
        self._numpy = numpy_for("Checkpoint()")
        self._store = os.fsdecode(store)
        self._name = check_name(name)
        check_name(f"{name}.{0:06}")
        self._objects = open_objects(self._store)
        self._keep = None if keep is None else whole("keep", keep)
        if self._keep is not None and self._keep < 1:
            raise UsageError(f"keep={keep}", cause="the newest stays", cure="keep 1 or more")
        self._mode = mode
        self._consistent = flag("consistent", consistent)
        self._level = level
        self._lock = original("threading", "Lock")()
        self._newest: int | None = None  # the one that our arrays were saved in last
        self._kept: dict[str, Kept] = {}
        self._held = _Held()
        self._first_to_go = Attribute()
        self._tie = undisturbed(lambda: Tie(self._first_to_go, self._held))

    def save(self, **arrays: Any) -> Update:
        """Store these arrays, as they are at one moment: first whole, then what was written since.

        Afterwards the checkpoint is these and no others.

        What is no array becomes one (`numpy.asarray`).  An array may be another one than before, of
        another shape or type: then it is read whole, and only what differs is stored.  Arrays that
        `load()` gave are completed first.

        When it returns, the checkpoint is in the store, and survives a crash of the machine; where
        it raises, the last one is untouched.  Raises UsageError for arrays that cannot be kept,
        SnapshotInUse where another process has saved meanwhile, and as `Snapshot.update` does.
        """
        given = {name: kept_arrays.flat(self._numpy, name, arrays[name]) for name in arrays}
        for value in arrays.values():
            _complete(value)
        with self._lock:
            self._held.check()
            number = self._alone()
            base = self._named(number) if number else None
            if self._newest is None and base is not None:
                self._kept = self._arrays_of(base)
            kept = self._laid_out(given)
            made = update(
                self._objects,
                self._named(number + 1),
                [self._held.parts[name] for name in kept if kept[name].length],
                kind="checkpoint",
                base=base,
                stopper=self._held.stopper if self._consistent else None,
                about=kept_arrays.words(kept),
                level=self._level,
                alone=self._keep is not None,
            )
            self._newest, self._kept = number + 1, kept
            self._remove_old()
            return made

    def load(self, at: int | None = None, *, writable: bool = True) -> dict[str, NDArray[Any]]:
        """The arrays of the newest checkpoint, or of number `at` of `history()`.

        They are lazy: each page is read when it is touched, and the rest in the background
        (`array.base.complete()` waits for all of it).  What is written to them stays theirs.

        Raises NoSuchSnapshot where there is none; FormatError, StoreError; and as `lazy()` does.
        """
        number = (self.history() or [0])[-1] if at is None else whole("at", at)
        name = self._named(number)
        if not number:
            raise NoSuchSnapshot(
                f"there is no checkpoint {self._name!r} in {self._objects.url}",
                cause="nothing was saved under this name",
                cure="save() first",
            )
        found = {}
        pager = Pager()
        try:
            for each, kept in self._arrays_of(name).items():
                memory = self._memory(pager, name, kept, writable) if kept.length else None
                found[each] = kept_arrays.shown(self._numpy, kept, memory, name)
        except BaseException:
            found.clear()
            pager.close()
            raise
        return found

    def history(self) -> list[int]:
        """The numbers of the checkpoints that are there, the oldest first."""
        pattern = re.compile(re.escape(f"{SNAPSHOTS}{self._name}.") + r"([0-9]{6,12})")
        matches = (pattern.fullmatch(listed.key) for listed in self._objects.list(SNAPSHOTS))
        return sorted(int(match[1]) for match in matches if match)

    def close(self) -> None:
        """Track the arrays no more.  What was saved stays.  Idempotent."""
        with self._lock:
            undisturbed(self._tie.end)

    def __enter__(self) -> Checkpoint:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _named(self, number: int) -> str:
        return f"{self._name}.{number:06}"

    def _alone(self) -> int:
        """The number of the newest one, or 0: ours, or we have saved none yet."""
        newest = (self.history() or [0])[-1]
        if self._newest not in (None, newest):
            raise SnapshotInUse(
                f"cannot save {self._name!r} in {self._objects.url}",
                cause=f"number {newest} is the newest, and this program has saved {self._newest}:"
                " somebody else saves under this name, or has removed it",
                cure="choose another name, or make a new Checkpoint to go on from there",
            )
        return newest

    def _arrays_of(self, name: str) -> dict[str, Kept]:
        image = open_image(self._objects, name)
        return kept_arrays.read(image.about, image.pages, f"{name!r} in {self._objects.url}")

    def _memory(self, pager: Pager, name: str, kept: Kept, writable: bool) -> LazyMemory:
        return lazy(
            f"{self._store.rstrip('/')}/{name}",
            length=kept.length,
            offset=kept.first * PAGE,
            writable=writable,
            pager=pager,
        )

    def _laid_out(self, given: dict[str, tuple[Kept, Any]]) -> dict[str, Kept]:
        """Where each array lies in the next image: where it was, if it has room there."""
        parts = self._held.take(given, self._mode)
        needed = sum(part.pages for part in parts.values())
        end = max((self._end(name) for name in parts), default=0)
        anew = end > _SPARSE * needed
        end = 0 if anew else end
        kept = {}
        for name, (what, _) in given.items():
            if name not in parts:
                kept[name] = what
                continue
            part, old = parts[name], self._kept.get(name)
            if old is None or anew or part.pages > old.pages:
                first, room = end, part.pages
                end += room
            else:
                first, room = old.first, old.pages
            if old is None or first != old.first:
                part.dirty = None
            part.first = first
            kept[name] = msgspec.structs.replace(what, first=first, pages=room)
        return kept

    def _end(self, name: str) -> int:
        old = self._kept.get(name)
        return 0 if old is None else old.first + old.pages

    def _remove_old(self) -> None:
        """What is beyond `keep`; others may lie on it still, and it stays."""
        if self._keep is not None:
            for number in reversed(self.history()[: -self._keep]):
                with contextlib.suppress(SnapshotInUse):
                    remove(self._objects, self._named(number))


class _Held:
    """What is to be let go of when it goes: the arrays that are tracked, by their names."""

    def __init__(self) -> None:
        self.stopper = Stopper()
        self.parts: dict[str, Part] = {}
        self._owner = os.getpid()
        self._closed = False

    def check(self) -> None:
        """Raise UsageError when it is closed, PagerError in a child of fork(2)."""
        if self._closed:
            raise UsageError("save()", cause="the checkpoint is closed", cure="make a new one")
        if os.getpid() != self._owner:
            raise PagerError(
                "the arrays belong to another process",
                cause="this process was forked from the one that saves them",
                cure="save there; or make a new Checkpoint here",
            )

    def take(self, given: dict[str, tuple[Kept, Any]], mode: str | None) -> dict[str, Part]:
        """Track those that are not yet, and the others no more."""
        for name, part in list(self.parts.items()):
            _, data = given.get(name, (None, None))
            if data is None or (data.ctypes.data, data.nbytes) != part.place:
                self.parts.pop(name).tracker.close()
        for name, (_, data) in given.items():
            if data is not None and name not in self.parts:
                self.parts[name] = Part(data, mode)
        return self.parts

    def end(self, *, gone: bool) -> None:
        """Let go of everything."""
        del gone
        self._closed = True
        self.stopper.close()
        for part in self.parts.values():
            part.tracker.close()
        self.parts = {}

    def forked(self) -> None:
        """The helper is the parent's."""
        self.stopper.forked()


def _complete(value: Any) -> None:
    """Fill the memory of an array that `load()` or `lazy_array()` gave."""
    while value is not None and not isinstance(value, LazyMemory):
        value = getattr(value, "base", None)
    if value is not None:
        value.complete()
