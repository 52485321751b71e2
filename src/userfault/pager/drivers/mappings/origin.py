"""Where the pages of a mapping come from, and how they are read from here."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING

from userfault.kernel.memtypes import round_up
from userfault.linux.libc import known_stat
from userfault.pager.core.density import Experience
from userfault.pager.core.layout import Layout
from userfault.pager.drivers.mappings.readers import Readers
from userfault.pager.drivers.mappings.residencies import Shared, borrow
from userfault.pager.drivers.mappings.residency import Residency
from userfault.pager.drivers.mappings.threads import Threads
from userfault.pager.drivers.mappings.workers import Workers
from userfault.pager.drivers.wire.messages import Attach
from userfault.source.file import FileSource
from userfault.source.pages import PagesSource
from userfault.source.spec import FileSpec, FunctionSpec, PagesSpec, StoreSpec

if TYPE_CHECKING:
    from userfault.snapshot.serving.source import SnapshotSource


def _nowhere(_offset: int, _length: int) -> int:
    """Nothing of it is at hand."""
    return 0


class Origin:
    """Where a mapping's pages come from: the source, and how to read it from here.

    `address`: where bytes of the source (offset, length) can be copied from at once, or 0; until it
    is asked again.  `mapped`: the same, for as long as the source is there.
    `file`, `residency`: for a file.  `store`, `layout`: for a snapshot in a store.  `pages`: for
    those on another host.  `fetcher`: what reads away from the fault path.  `fd`: the source's
    descriptor.  `experiences`: what all that are filled from it learn of how it is touched.
    """

    def __init__(self, attach: Attach, fd: int, threads: Threads) -> None:
        spec = attach.source
        self.file: FileSource | None = None
        self.residency: Residency | None = None
        self._shared: Shared | None = None
        self.store: SnapshotSource | None = None
        self.layout: Layout | None = None
        self.pages: PagesSource | None = None
        self.fetcher: Readers | Workers | None = None
        self.fd = fd
        self.address: Callable[[int, int], int] = _nowhere
        self.mapped: Callable[[int, int], int] = _nowhere
        self.experiences: dict[int, Experience] | None = None
        if isinstance(spec, FileSpec):
            self.file = FileSource(spec, fd)
            self.fetcher = readers = Readers(self.file, threads, self.file.read_now)
            if not attach.prepared:  # that is not copied from: nothing to map
                self._prompt = readers.prompt
                self._shared = borrow(self.file, attach.page_size, self._prompt)
                self.residency = self._shared.residency
                self.address, self.mapped = self.residency.address, self.residency.mapped
                self.experiences = self._shared.experiences
        elif isinstance(spec, FunctionSpec):
            slot = round_up(attach.policy.most_read, attach.page_size)
            self.fetcher = Workers(spec, slot, fd)
        elif isinstance(spec, StoreSpec):
            # It brings zstd and BLAKE3 along, which a pager of files has no use for.
            from userfault.snapshot.serving import taking_up  # noqa: PLC0415

            self.store, self.layout = taking_up.take_up(spec, fd, attach.page_size)
            self.fetcher = Readers(self.store, threads)
        elif isinstance(spec, PagesSpec):
            self.pages = PagesSource(spec, fd)
            self.fetcher = Readers(self.pages, threads)

    def forget(self, now: float) -> None:
        """What is known of the page cache does not hold for ever."""
        if self.residency:
            self.residency.forget(now)

    def rest(self) -> None:
        """Everything is in: what was kept for reads to come is not needed any more."""
        if self.store:
            self.store.forget()

    def changed(self) -> str:
        """Why the source is not what it was, as far as this machine knows; empty when all is well.

        Never waits for a server that has the file.
        """
        return self.file.differs(*known_stat(self.file.fileno())) if self.file else ""

    def close(self) -> None:
        """End workers, unmap, close."""
        if self.fetcher:
            self.fetcher.close()
        if self._shared:
            self._shared.leave(self._prompt)
            self._shared = self.residency = None
            self.address = self.mapped = _nowhere
        if self.file:
            self.file.close()
        if self.store:
            self.store.close()
        if self.pages:
            self.pages.close()
        if self.fd >= 0 and self.file is None:
            os.close(self.fd)
