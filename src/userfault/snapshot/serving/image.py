"""A snapshot, opened: its layers resolved into one flat table of runs.

`open_image` follows the chain of bases and replaces each run of pages of a base by what that base
holds there (`flatten`), so that whoever reads pages meets zero, hole, word and chunk only.  The
table stays in columns (13 bytes a run, 44 a chunk) and is searched by bisection.
"""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from itertools import accumulate
from typing import NamedTuple

import msgspec

from userfault.kernel.errors import UsageError
from userfault.snapshot.errors import FormatError, NoSuchSnapshot
from userfault.snapshot.format import manifest
from userfault.snapshot.format.manifest import ChunkTable, Manifest
from userfault.snapshot.format.runs import CHUNK, WORD, Kind, Runs
from userfault.snapshot.inputs.protocol import Region
from userfault.snapshot.serving.flatten import flatten, too_many
from userfault.snapshot.serving.kept import Kept
from userfault.snapshot.serving.layers import Layer, read_layer
from userfault.snapshot.stores.objects import Objects


class Limits(NamedTuple):
    """How many layers a snapshot may have, and how much they may hold together.

    Whatever they claim, it is read, held in memory and looked at before the first page can be had.
    One layer alone may hold more: the bounds of a manifest are its bounds.
    """

    layers: int = 256  # each is an object to read: beyond this, somebody forgot to squash
    runs: int = 1 << 23  # some 10 s
    chunks: int = 1 << 22  # some 500 MB


_MOST_KEPT = 1 << 16  # runs and chunks of an image that is kept: some 4 MB

USUAL = Limits()
SQUASHING = Limits(4096, 1 << 26, 1 << 24)  # what has become too much is to be made one again


class Extent(msgspec.Struct, frozen=True, gc=False):
    """`count` pages from `page` of the image, all of one kind.

    Of CHUNK: they lie in `chunk` of the image's table, from its page `slot` on, never beyond its
    end.  Of WORD: each is `word`, 8 bytes little-endian, over and over.
    """

    page: int
    count: int
    kind: Kind
    chunk: int = 0
    slot: int = 0
    word: int = 0


class Image:
    """The pages of a snapshot.  It reads no chunk; immutable, so safe in any thread."""

    def __init__(self, layers: Sequence[Layer], runs: Runs, chunks: ChunkTable) -> None:
        self._layers = tuple(layers)
        self._runs = runs
        self._starts = array("Q", accumulate(runs.counts, initial=0))
        self.chunks = chunks

    @property
    def name(self) -> str:
        """The snapshot's."""
        return self._layers[0].name

    @property
    def layers(self) -> tuple[Layer, ...]:
        """The manifests, this snapshot's first, the one without a base last."""
        return self._layers

    @property
    def manifest(self) -> Manifest:
        """The snapshot's own."""
        return self._layers[0].manifest

    @property
    def digest(self) -> bytes:
        """Of the manifest, which tells those of its bases: one image for ever."""
        return self._layers[0].digest

    @property
    def length(self) -> int:
        """Bytes."""
        return self.manifest.length

    @property
    def pages(self) -> int:
        """The last one may be a part of one."""
        return self.manifest.pages

    @property
    def regions(self) -> tuple[Region, ...]:
        """Where the pages lay in the program; empty where nobody knows."""
        return self.manifest.regions

    @property
    def about(self) -> Mapping[str, str]:
        """Free words about it."""
        return self.manifest.about

    @property
    def runs(self) -> Runs:
        """The flat table: no run of it is of kind PARENT; slots are those of `chunks`."""
        return self._runs

    def extents(self, page: int, count: int) -> Iterator[Extent]:
        """What `count` pages from `page` are, in order; UsageError outside of the image."""
        if not 0 <= page <= page + count <= self.pages:
            raise UsageError(
                f"pages {page} to {page + count} of an image of {self.pages}",
                cure="stay within the image",
            )
        end = page + count
        run = bisect_right(self._starts, page) - 1
        while page < end:
            kind, value = self._runs.kinds[run], self._runs.values[run]
            stop = min(end, self._starts[run + 1])
            if kind == CHUNK:
                yield from self._in_chunks(page, stop, value + page - self._starts[run])
            else:
                yield Extent(page, stop - page, _KINDS[kind], word=value if kind == WORD else 0)
            page = stop
            run += 1

    def _in_chunks(self, page: int, stop: int, slot: int) -> Iterator[Extent]:
        """Cut pages that follow each other in slots at the ends of chunks."""
        starts = self.chunks.starts
        chunk = bisect_right(starts, slot) - 1
        while page < stop:
            count = min(stop - page, starts[chunk + 1] - slot)
            yield Extent(page, count, Kind.CHUNK, chunk, slot - starts[chunk])
            page += count
            slot += count
            chunk += 1


_KINDS = tuple(Kind)
_OPENED: Kept[Image] = Kept(4)  # of several layers, which take a while to be resolved


def open_image(objects: Objects, name: str, limits: Limits = USUAL) -> Image:
    """The snapshot `name` of a store, with the snapshots that it lies on.

    Raises NoSuchSnapshot (it, or one of its bases, is not there), FormatError (a manifest is
    damaged or hostile, or a base was replaced by another snapshot of its name), StoreError.
    """
    layers = list(_chain(objects, name, limits))
    digest = layers[0].digest
    kept = _OPENED.get(digest)  # its bases are there still: all manifests were read
    if kept is not None and kept.name == name:
        return kept
    runs, chunks = flatten(name, [layer.manifest for layer in layers], limits.runs)
    image = Image(layers, runs, chunks)
    if len(layers) > 1 and len(runs) + len(chunks) < _MOST_KEPT:
        _OPENED.put(digest, image)
    return image


def check_layers(name: str, layers: Sequence[Manifest], limits: Limits = USUAL) -> None:
    """FormatError where nobody would open the snapshot `name` of these layers, its own first."""
    count = _Count(name, limits)
    for layer in layers:
        count.add(layer)
    flatten(name, layers, limits.runs)


class _Count:
    """What the layers of a snapshot hold together, held against the limits."""

    def __init__(self, name: str, limits: Limits) -> None:
        self._name = name
        self._limits = limits
        self._layers = self._runs = self._chunks = 0

    def add(self, layer: Manifest) -> None:
        """One more layer.  FormatError beyond the limits."""
        most = self._limits
        self._layers += 1
        self._runs += len(layer.runs)
        self._chunks += len(layer.chunks)
        if self._layers > most.layers:
            raise too_many(self._name, f"there are more than {most.layers}")
        if self._layers > 1 and self._runs > most.runs:
            raise too_many(self._name, f"they have more than {most.runs} runs of pages")
        if self._layers > 1 and self._chunks > most.chunks:
            raise too_many(self._name, f"they have more than {most.chunks} chunks")


def _chain(objects: Objects, name: str, limits: Limits) -> Iterator[Layer]:
    """The manifests from `name` down to the one without a base."""
    layer = read_layer(objects, name)
    seen = {name}
    count = _Count(name, limits)
    count.add(layer.manifest)
    yield layer
    while (base := layer.manifest.base) is not None:
        if base.name in seen:
            raise FormatError(
                f"the bases of snapshot {name!r} do not end",
                cause=f"{layer.name!r} lies on {base.name!r}, which lies on it",
                cure="pack it again without a base",
            )
        seen.add(base.name)
        layer = _read_base(objects, layer, base)
        count.add(layer.manifest)
        yield layer


def _read_base(objects: Objects, layer: Layer, base: manifest.Base) -> Layer:
    try:
        below = read_layer(objects, base.name)
    except NoSuchSnapshot:
        raise NoSuchSnapshot(
            f"the base {base.name!r} of snapshot {layer.name!r} is gone from {objects.url}",
            cause="it was removed, or the store was copied without it",
            cure="bring back the base from a copy of the store; without it the layer is of no use",
        ) from None
    if below.digest != base.digest:
        raise FormatError(
            f"the base {base.name!r} of snapshot {layer.name!r} is not the one it was made on",
            cause="another snapshot was stored under that name since",
            cure="bring back the base from a copy of the store",
        )
    return below


def slices(runs: Runs, starts: array[int], page: int, count: int) -> Iterator[tuple[int, int, int]]:
    """The (count, kind, value) that `runs`, which begin at `starts`, have at these pages."""
    end = page + count
    run = bisect_right(starts, page) - 1
    while page < end:
        kind, value = runs.kinds[run], runs.values[run]
        if kind == CHUNK:
            value += page - starts[run]
        part = min(end, starts[run + 1]) - page
        yield part, kind, value
        page += part
        run += 1
