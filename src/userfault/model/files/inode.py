"""Files as the kernel sees them: pages with a type, and who maps them."""

from __future__ import annotations

from typing import Protocol

from userfault.model.files.folio import Mount, Object
from userfault.model.files.ops import FileOps


class Mapping(Protocol):
    """A mapping of a file, as far as the file system has to do with it."""

    start: int
    end: int

    def address_of(self, index: int) -> int:
        """Where page `index` of the file is mapped; may lie outside of the mapping."""

    def zap(
        self, start: int, end: int, *, drop_markers: bool = False, private_too: bool = True
    ) -> None:
        """Take the pages of [start, end) out (see `AddressSpace.zap`)."""

    def unmap_present(self, start: int, end: int) -> None:
        """Take what is present in [start, end) out, and leave no marker of it."""

    @property
    def writes_through(self) -> bool:
        """Whether stores may reach the file."""


class Inode(Object):
    """An object with its memory type, and what keeps it: mappings, descriptors, segments.

    `links` counts them; with the last one its pages go.  `cut`: tasks that are making it shorter.
    """

    __slots__ = ("cut", "kind", "links", "mappings", "seals")

    def __init__(
        self,
        name: str,
        kind: FileOps,
        size: int,
        shift: int = 12,
        mount: Mount | None = None,
        traits: int = 0,
    ) -> None:
        super().__init__(name, size, shift, mount, traits)
        self.kind = kind
        self.mappings: dict[Mapping, None] = {}
        self.links = 0
        self.cut = 0
        self.seals = 0
