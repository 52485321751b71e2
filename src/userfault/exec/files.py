"""The files that are shown lazily: what was named, and where their bytes come from."""

from __future__ import annotations

import contextlib
import os
import stat

import msgspec

from userfault.exec.settings import Stored
from userfault.kernel.errors import UsageError
from userfault.kernel.memtypes import BASE_PAGE, round_up
from userfault.kernel.names import shown
from userfault.linux.refused import calling
from userfault.snapshot.serving import handover
from userfault.snapshot.stores.place import place_of
from userfault.source.spec import Resolved, resolve


class File(msgspec.Struct):
    """One of them.  `place`: device and inode.  `itself`: its bytes are its own.  `made`: it was
    not there, and goes at the end.  `memory`: what processes that may write to it share (-1: not
    asked for yet), in `writers` mappings.  `maps`: how often it was mapped at all."""

    path: str
    resolved: Resolved
    place: tuple[int, int]
    itself: bool
    made: bool
    memory: int = -1
    maps: int = 0
    writers: int = 0
    told: set[str] = msgspec.field(default_factory=set)

    @property
    def length(self) -> int:
        """Bytes of the source."""
        return self.resolved.spec.length

    @property
    def whole(self) -> int:
        """The same in whole pages."""
        return round_up(self.length, BASE_PAGE)

    def shared(self) -> int:
        """The memory that all see who map it to be written."""
        if self.memory < 0:
            self.memory = memory_of(self.whole)
        return self.memory

    def close(self) -> None:
        """Let go of it; a file that was made goes, if it is that still."""
        self.resolved.close()
        if self.memory >= 0:
            os.close(self.memory)
        if self.made:
            with contextlib.suppress(OSError):
                found = os.stat(self.path)
                if (found.st_dev, found.st_ino) == self.place:
                    os.unlink(self.path)


def opened(told: str, stored: Stored) -> File:
    """`FILE` or `FILE=SOURCE`, as the command line has it.

    Raises UsageError for files that do not go with their source, SourceError and its like for the
    source.
    """
    path, equals, what = told.partition("=")
    if not equals or os.path.lexists(told):  # a name with "=" in it
        path, what = told, ""
    path = os.path.abspath(path)
    resolved = _resolved(what or path, stored)
    with contextlib.ExitStack() as undo:
        undo.callback(resolved.close)
        found, made = _there(path, resolved.spec.length, itself=not what)
        undo.pop_all()
    return File(path, resolved, (found.st_dev, found.st_ino), not what, made)


def memory_of(length: int) -> int:
    """Memory of so many bytes, behind a descriptor."""
    with calling("memfd_create"):
        made = os.memfd_create("userfault-exec", os.MFD_CLOEXEC)
    try:
        with calling("ftruncate"):
            os.ftruncate(made, length)
    except BaseException:
        os.close(made)
        raise
    return made


def _resolved(what: str, stored: Stored) -> Resolved:
    place = place_of(what)
    if place is None:
        return resolve(os.path.abspath(what))
    return handover.resolve(*place, **msgspec.structs.asdict(stored))


def _there(path: str, length: int, *, itself: bool) -> tuple[os.stat_result, bool]:
    """The file as stat(2) has it, and whether it was made: empty, as long as its source."""
    made = False
    try:
        found = os.stat(path)
    except FileNotFoundError:
        file = os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC, 0o600)
        made = True
        try:
            os.ftruncate(file, length)
            found = os.fstat(file)
        finally:
            os.close(file)
    if not stat.S_ISREG(found.st_mode):
        raise UsageError(
            f"--map {shown(path)}",
            cause="it is no regular file, and what programs map of it is not known by its inode",
            cure="name a file; it is made where there is none",
        )
    if not itself and found.st_size not in (0, length):
        raise UsageError(
            f"--map {shown(path)}",
            cause=f"the file has {found.st_size} bytes, and its source {length}",
            cure="name one that is empty, or as long, or none, which is then made",
        )
    return found, made
