"""Images for tests: pages given as a list, as an input of `pack`; and reading a snapshot back."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby

from userfault.snapshot.format.runs import Kind
from userfault.snapshot.inputs.protocol import PAGE, Holds, Region, Run
from userfault.snapshot.packing.layering import read_chunk
from userfault.snapshot.serving.image import Image, open_image
from userfault.snapshot.stores.objects import Objects

ZERO, HOLE, BASE = Holds.ZERO, Holds.HOLE, Holds.BASE

# A page of an image: its bytes, or what an input says of it without reading.
Page = bytes | Holds

SMALL = 4 * PAGE  # of chunks: few pages are many chunks


class Pages:
    """An input of these pages; `cut` bytes are missing from the last one."""

    kind = "raw"
    warnings: Sequence[str] = ()

    def __init__(
        self, pages: Sequence[Page], *, cut: int = 0, regions: Sequence[Region] = ()
    ) -> None:
        self._pages = pages
        self.length = len(pages) * PAGE - cut
        self.regions = regions

    def runs(self) -> Iterator[Run]:
        first = 0
        for holds, group in groupby(self._pages, key=_holds):
            count = len(list(group))
            yield Run(first, count, holds)
            first += count

    def read(self, page: int, count: int) -> memoryview:
        whole = b"".join(map(content, self._pages[page : page + count]))
        inside = max(0, self.length - page * PAGE)
        return memoryview(whole[:inside].ljust(len(whole), b"\0"))

    def finish(self) -> Mapping[str, str]:
        return {"from": "a test"}

    def close(self) -> None:
        pass


def content(page: Page) -> bytes:
    """What a page reads as, where no base matters."""
    return page if isinstance(page, bytes) else bytes(PAGE)


def read_image(objects: Objects, name: str) -> bytes:
    """All bytes of a snapshot, read the plain way."""
    image = open_image(objects, name)
    return b"".join(read_pages(objects, image))[: image.length]


def read_pages(objects: Objects, image: Image) -> Iterator[bytes]:
    """Extent by extent, with the chunks straight from the store."""
    chunks: dict[int, bytes] = {}
    for extent in image.extents(0, image.pages):
        if extent.kind is Kind.CHUNK:
            if extent.chunk not in chunks:
                chunks[extent.chunk] = read_chunk(objects, image.chunks, extent.chunk)
            at = extent.slot * PAGE
            yield chunks[extent.chunk][at : at + extent.count * PAGE]
        else:
            yield extent.word.to_bytes(8, "little") * (extent.count * PAGE // 8)


def _holds(page: Page) -> Holds:
    return Holds.DATA if isinstance(page, bytes) else page


def image(seed: int, count: int = 200) -> list[Page]:
    """Pages of its own; every third one is in the image of any other seed too."""
    return [
        random.Random(n if n % 3 == 0 else (seed << 32) + n).randbytes(PAGE) for n in range(count)
    ]


def whole(pages: list[Page]) -> bytes:
    return b"".join(map(content, pages))
