"""What a folder is: a store, a cache, or somebody's own, in which nothing is to be made or removed.

A file says it.  A store or a cache is made only in a folder that is empty, where the user did not
ask for another; then the file comes before anything else.  Folders of releases that had no such
file are known by what only these releases write.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Callable
from typing import NamedTuple

from userfault.snapshot.errors import NotAStore
from userfault.snapshot.stores import atomic, folders
from userfault.snapshot.stores.keys import (
    CHUNK_MAGIC,
    CHUNKS,
    INDEX,
    INDEX_MAGIC,
    LEASES,
    MANIFEST_MAGIC,
    SNAPSHOTS,
    lease_of,
)

_MARK_MODE = 0o644
_LOOK = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
_PARTS = {"tmp", *(each[:-1] for each in (CHUNKS, INDEX, LEASES, SNAPSHOTS))}
_PAIR = re.compile(r"[0-9a-f]{2}")
_USAGE = re.compile(rb"\d{1,31} *\n")


class Mark(NamedTuple):
    """What a folder can be: the file `name` that says so begins with `text`.

    `earlier`: whether these names, in the folder of a descriptor, are those of a release that
    wrote no such file.
    """

    what: str
    name: str
    text: bytes
    earlier: Callable[[int, set[str]], bool]


def claim(root: int, path: str, mark: Mark, *, into_existing: bool) -> None:
    """Return where the folder is what `mark` says, or has become that now.

    Raises NotAStore where it is something else: it has other files in it, or is empty and belongs
    to somebody else, or everybody may write there; not so with `into_existing`.  Raises OSError.
    """
    if is_marked(root, mark):
        return
    names = {name for name in _listed(root) if not atomic.is_ours(name)}
    if names and is_marked(root, mark):  # by somebody who was here first
        return
    if mark.name in names:
        raise _refused(path, mark, f"its file {mark.name!r} is none that userfault wrote")
    if not into_existing and not mark.earlier(root, names):
        if names:
            raise _refused(
                path, mark, f"it is none yet, and has other things in it: {_some(names)}"
            )
        _refuse_others(root, path, mark)
    atomic.write(root, root, mark.name, mark.text, mode=_MARK_MODE, sync=True)
    os.fsync(root)


def is_one(root: int, mark: Mark) -> bool:
    """Whether a folder is what `mark` says, by the file or by an earlier release.  OSError."""
    return is_marked(root, mark) or mark.earlier(root, _listed(root))


def is_marked(root: int, mark: Mark) -> bool:
    """Whether a folder has the file that says so."""
    return _begins(root, mark.name, len(mark.text)) == mark.text


def _listed(root: int) -> set[str]:
    """What somebody has put there: not the folder that a new file system of ext2 to 4 has."""
    return set(os.listdir(root)) - {"lost+found"}


def _refuse_others(root: int, path: str, mark: Mark) -> None:
    """An empty folder of somebody else's may wait for the memory of others."""
    held = os.fstat(root)
    if held.st_uid != os.geteuid():
        raise _refused(path, mark, f"it belongs to user {held.st_uid}")
    if held.st_mode & stat.S_IWOTH:
        raise _refused(path, mark, "everybody may write there")


def _refused(path: str, mark: Mark, cause: str) -> NotAStore:
    return NotAStore(
        f"{path} is not used as a {mark.what}",
        cause=cause,
        cure=f"name a new or an empty folder, {path}/{mark.what.split()[0]} for one"
        + ("; `pack --into-existing` makes one here all the same" if mark is STORE else ""),
    )


def _some(names: set[str]) -> str:
    few = sorted(names)[:3]
    return ", ".join(map(repr, few)) + (", …" if len(names) > len(few) else "")


def _begins(folder: int, name: str, length: int) -> bytes:
    """The first bytes of a file; none where it is no ordinary file."""
    try:
        fd = os.open(name, _LOOK, dir_fd=folder)
    except OSError:
        return b""
    try:
        return os.read(fd, length) if stat.S_ISREG(os.fstat(fd).st_mode) else b""
    finally:
        os.close(fd)


def _earlier_store(root: int, names: set[str]) -> bool:
    """A manifest, an index piece, a chunk; or nothing but the folders of a store without any."""
    if _has(root, SNAPSHOTS, MANIFEST_MAGIC) or _has(root, INDEX, INDEX_MAGIC):
        return True
    if any(_has(root, CHUNKS + pair, CHUNK_MAGIC) for pair in _names(root, CHUNKS, _PAIR)):
        return True
    # Leases were the first that any writer made.
    leases = _names(root, LEASES)
    return LEASES[:-1] in names <= _PARTS and all(lease_of(LEASES + each) for each in leases)


def _earlier_cache(root: int, names: set[str]) -> bool:
    """The count of bytes as a cache writes it, and the file that evictions lock."""
    return "evicting" in names and _USAGE.fullmatch(_begins(root, "usage", 40)) is not None


def _has(root: int, part: str, magic: bytes) -> bool:
    """Whether a folder of a store has a file that begins so."""
    try:
        with folders.below(root, part.rstrip("/")) as fd:
            return any(_begins(fd, name, len(magic)) == magic for name in os.listdir(fd))
    except OSError:
        return False


def _names(root: int, part: str, fits: re.Pattern[str] | None = None) -> list[str]:
    try:
        with folders.below(root, part.rstrip("/")) as fd:
            return [name for name in os.listdir(fd) if fits is None or fits.fullmatch(name)]
    except OSError:
        return []


STORE = Mark(
    "store",
    "userfault-store",
    b"userfault-store 1\nThis folder is a store of memory images: leave its files to userfault.\n",
    _earlier_store,
)
# So that backups leave it out: https://bford.info/cachedir/
CACHE = Mark(
    "cache",
    "CACHEDIR.TAG",
    b"Signature: 8a477f597d28d172789f06886806bc55\n# This folder is a cache of userfault's.\n",
    _earlier_cache,
)
