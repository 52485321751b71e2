"""Reading, keeping and dropping sets where they belong.

A set is a hint: one that cannot be read, or is of another image, is ignored with a warning, and the
restore goes on without.  Whoever keeps one replaces the file as a whole; of two that do so at once
the last one is there.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import stat
from collections.abc import Callable, Iterator

from userfault.kernel.errors import UserfaultError
from userfault.kernel.names import shown
from userfault.snapshot.errors import NoSuchObject, StoreError
from userfault.snapshot.format.working_set import MOST_STORED, WorkingSet, decode, encode
from userfault.snapshot.stores.cache import cache_objects, user_cache
from userfault.snapshot.stores.keys import snapshot_key
from userfault.snapshot.stores.local import LocalObjects
from userfault.snapshot.stores.newfile import write_new
from userfault.snapshot.stores.objects import check_size
from userfault.snapshot.working_sets.naming import set_key
from userfault.snapshot.working_sets.place import SETS, Place

Tell = Callable[[str], None]

_log = logging.getLogger("userfault")


def warn(text: str) -> None:
    """To the logger of this package."""
    _log.warning("%s", text)


def load(place: Place, tie: bytes, tell: Tell = warn) -> WorkingSet | None:
    """The set of the image `tie`; None where there is none that can be used, which `tell` hears."""
    for data, where in _found(place, tie, tell):
        what = f"the working set {where}"
        try:
            held = decode(data, what)
        except UserfaultError as error:
            tell(f"{what} is ignored: {error}")
            continue
        if held.tie == tie:
            return held
        tell(f"{what} is ignored: it is of another image than {shown(place.shown)}")
    return None


def any_of(place: Place) -> WorkingSet | None:
    """The set in a file, whichever image it is of, or None.  Raises FormatError."""
    for data, where in _found(place, b"", warn):
        return decode(data, f"the working set {where}")
    return None


def spare_folder(cache: str | None) -> str | None:
    """Where the sets of stores go that cannot be written: `cache`, as `lazy()` takes it."""
    told = os.environ.get("USERFAULT_CACHE") if cache is None else cache
    return user_cache() if told is None else told or None


def keep(place: Place, held: WorkingSet) -> str:
    """Put it where it belongs; where that is, where it is not the first choice, and why.

    That of a snapshot which was removed meanwhile is not kept: nobody restores it.

    Raises StoreError where it can be put nowhere.
    """
    data = encode(held)
    if place.path:
        write_new(os.fsdecode(place.path), data, 0o600)
        return ""
    why = "the store is a remote one"
    if place.store:
        try:
            objects = _store(place)
            if objects.exists(snapshot_key(place.name)):  # a put would make a removed store anew
                objects.put(set_key(place.name), data)
            return ""
        except UserfaultError as error:
            why = error.cause or error.what
    if not place.spare:
        raise StoreError(
            f"the working set of {shown(place.shown)} is not kept",
            cause=f"{why}, and there is no cache folder",
            cure="name a file for it (working_set=), or a cache (USERFAULT_CACHE)",
        )
    folder = os.fsdecode(place.spare)
    cache_objects(folder).put(_spare_key(held.tie), data)
    return f"{folder}, as {why}"


def drop(place: Place, tie: bytes | None) -> list[str]:
    """Remove it wherever it is; from where it was removed.  Raises StoreError."""
    dropped = []
    if place.path:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(os.fsdecode(place.path))
            dropped.append(os.fsdecode(place.path))
        return dropped
    if place.store:
        objects, key = _store(place), set_key(place.name)
        if objects.exists(key):
            objects.delete([key])
            dropped.append(f"{objects.url}/{key}")
    if place.spare and tie is not None and os.path.isdir(os.fsdecode(place.spare)):
        objects, key = cache_objects(os.fsdecode(place.spare)), _spare_key(tie)
        if objects.exists(key):
            objects.delete([key])
            dropped.append(f"{objects.url}/{key}")
    return dropped


def _found(place: Place, tie: bytes, tell: Tell) -> Iterator[tuple[bytes, str]]:
    """What there is, and where: of a cache before what is in the store."""
    if place.path:
        path = os.fsdecode(place.path)
        with contextlib.suppress(FileNotFoundError):
            yield _read(path, tell), shown(path)
        return
    if place.spare and os.path.isdir(os.fsdecode(place.spare)):
        yield from _get(cache_objects(os.fsdecode(place.spare)), _spare_key(tie), tell)
    if place.store:
        yield from _get(_store(place), set_key(place.name), tell)


def _get(objects: LocalObjects, key: str, tell: Tell) -> Iterator[tuple[bytes, str]]:
    where = f"{shown(objects.url)}/{key}"
    try:
        yield objects.get(key, most=MOST_STORED), where
    except NoSuchObject:
        pass
    except UserfaultError as error:
        tell(f"the working set {where} is ignored: {error}")


def _read(path: str, tell: Tell) -> bytes:
    """A file, if it is one, and is no longer than a set can be; else nothing."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
        with open(fd, "rb") as file:
            held = os.fstat(fd)
            if not stat.S_ISREG(held.st_mode):
                raise OSError(errno.EINVAL, "it is no ordinary file")
            check_size(path, held.st_size, MOST_STORED)
            return file.read(MOST_STORED)
    except FileNotFoundError:
        raise
    except (OSError, UserfaultError) as error:
        tell(f"the working set {shown(path)} cannot be read: {error}")
        return b""


def _store(place: Place) -> LocalObjects:
    return LocalObjects(os.fsdecode(place.store))


def _spare_key(tie: bytes) -> str:
    return SETS + tie.hex()
