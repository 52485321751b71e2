"""The working set of a restore: one that is there is made a course for the pager, else one is
recorded."""

from __future__ import annotations

import fcntl
import logging
import mmap
import os
from collections.abc import Callable
from typing import TYPE_CHECKING

import msgspec

from userfault.kernel.memtypes import BASE_PAGE
from userfault.linux.refused import calling
from userfault.pager.core.policy import Policy
from userfault.snapshot.working_sets.naming import of_file, of_snapshot, tie_of
from userfault.snapshot.working_sets.place import HEAD_BYTES, Job, Place
from userfault.source.spec import Resolved, Spec, StoreSpec

if TYPE_CHECKING:
    from userfault.snapshot.format.working_set import WorkingSet

_log = logging.getLogger("userfault")


class Planned(msgspec.Struct, frozen=True):
    """Descriptors of a course and of the notes of a recording (-1: none), and what the pager is to
    make of the restore."""

    course: int = -1
    touches: int = -1
    job: Job | None = None

    @property
    def fds(self) -> list[int]:
        """Those that there are, in the order in which they are sent."""
        return [fd for fd in (self.course, self.touches) if fd >= 0]

    def close(self) -> None:
        """Close them."""
        for fd in self.fds:
            os.close(fd)


def prepare() -> None:
    """Load what `plan` needs where there is a set, so that nobody waits for that later."""
    from userfault.snapshot.working_sets import keeping, routing  # noqa: F401, PLC0415


def plan(
    resolved: Resolved,
    policy: Policy,
    *,
    path: str | None,
    whole: bool,
    offset: int,
    pages: int,
    page_size: int,
    tell: Callable[[str], None],
) -> Planned:
    """What is to be done for memory that shows `resolved` from `offset` of its image on.

    `path`: of the set, as the user says it.  `whole`: it shows all of the image; a recording is of
    no less.  `tell`: hears why a set is ignored.  Raises OSError where there is no memory or
    descriptor for it.
    """
    wanted = policy.replay or policy.record != "never"
    place = _place(resolved.spec, path) if wanted else None
    if place is None:
        return Planned()
    job = Job(place, tie_of(resolved.spec), page_size, pages) if whole else None
    if policy.record == "always":
        return Planned(touches=_notes(pages), job=job) if job else Planned()
    course = b""
    if policy.replay:
        held = _found(resolved, policy, place, tell)
        course = _course(resolved, held, offset, pages, page_size) if held else b""
    recorded = policy.record == "once" and job is not None
    if course:
        return Planned(course=_sealed(course), job=job if recorded else None)
    return Planned(touches=_notes(pages), job=job) if recorded else Planned()


def _found(
    resolved: Resolved, policy: Policy, place: Place, tell: Callable[[str], None]
) -> WorkingSet | None:
    """The set that is there, but for one that asks for another recording."""
    # It brings pyroaring, zstd and BLAKE3 along: who names no set does not pay for them.
    from userfault.snapshot.working_sets import keeping  # noqa: PLC0415

    held = keeping.load(place, tie_of(resolved.spec), tell)
    return None if held is not None and held.stale and policy.record == "once" else held


def _course(resolved: Resolved, held: WorkingSet, offset: int, pages: int, page_size: int) -> bytes:
    """That of a set; empty where it says nothing of these pages."""
    from userfault.snapshot.serving.table import Table  # noqa: PLC0415  # see _found
    from userfault.snapshot.working_sets import routing  # noqa: PLC0415

    table = None
    if isinstance(resolved.spec, StoreSpec) and page_size == BASE_PAGE:
        table = Table(memoryview(mmap.mmap(resolved.fd, 0, prot=mmap.PROT_READ)))
    found = routing.build(held, offset=offset, pages=pages, page_size=page_size, table=table)
    return found or b""


def _place(spec: Spec, path: str | None) -> Place | None:
    """Where the set of a source is, or goes; None: nowhere."""
    if path is not None:
        return of_file(path) if path else None
    if not isinstance(spec, StoreSpec):
        return None
    from userfault.snapshot.working_sets.keeping import spare_folder  # noqa: PLC0415  # see _found

    return of_snapshot(spec.url, spec.name, spare_folder(spec.cache))


def _notes(pages: int) -> int:
    """Memory for the notes of a recording."""
    with calling("memfd_create"):
        fd = os.memfd_create("userfault-touches", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        with calling("ftruncate"):
            os.ftruncate(fd, HEAD_BYTES + pages)
        with calling("fcntl(F_ADD_SEALS)"):
            fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW)
    except BaseException:
        os.close(fd)
        raise
    return fd


def _sealed(course: bytes) -> int:
    from userfault.snapshot.serving.table import sealed  # noqa: PLC0415  # see _found

    with calling("memfd_create"):
        return sealed(course)


def warn(texts: list[str]) -> None:
    """Why sets were ignored: in the thread of whoever asked, whom a logger may name."""
    for text in texts:
        _log.warning("%s", text)
