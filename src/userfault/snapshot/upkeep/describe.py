"""What a snapshot is, told from its manifests alone: no chunk is read."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import msgspec

from userfault.snapshot.errors import FormatError, NoSuchSnapshot, StoreError, told
from userfault.snapshot.format.runs import Kind
from userfault.snapshot.inputs.protocol import Region
from userfault.snapshot.serving.image import Image
from userfault.snapshot.serving.layers import Layer, read_layer, snapshot_names
from userfault.snapshot.stores.objects import Objects, is_remote


class Summary(msgspec.Struct, frozen=True):
    """One layer.  `length` of the image and `stored` of the chunks that its manifest names: bytes.

    A chunk that several snapshots name is counted in each of them.  `created` is in seconds since
    1970; `base` is the name of the snapshot that it lies on, or empty.
    """

    name: str
    kind: str
    length: int
    stored: int
    chunks: int
    created: int
    base: str
    digest: str


class Description(msgspec.Struct, frozen=True):
    """A snapshot with its layers resolved.

    `pages` counts them by what they hold, `distinct` those of different content as far as chunks
    tell.  `stored` is what all chunks of the image take together, bytes.  `layers` are the names,
    this snapshot's first.
    """

    summary: Summary
    pages: dict[str, int]
    distinct: int
    stored: int
    chunks: int
    layers: list[str]
    about: Mapping[str, str]
    regions: list[Region]


class Unreadable(msgspec.Struct, frozen=True):
    """A snapshot whose manifest cannot be read: why, and what to do."""

    name: str
    problem: str
    cure: str


def summaries(objects: Objects) -> Iterator[Summary | Unreadable]:
    """Each snapshot of a store, in the order of their names; one that is damaged hides no other.

    Raises StoreError where the store cannot be listed, or a remote one does not answer.
    """
    for name in snapshot_names(objects):
        try:
            yield summary(read_layer(objects, name))
        except NoSuchSnapshot:
            continue  # removed while we look
        except (FormatError, StoreError) as error:
            if isinstance(error, StoreError) and is_remote(objects):
                raise  # each of the others would wait as long
            yield Unreadable(name, told(error), error.cure)


def summary(layer: Layer) -> Summary:
    """What one manifest tells."""
    manifest = layer.manifest
    return Summary(
        name=layer.name,
        kind=manifest.kind,
        length=manifest.length,
        stored=sum(manifest.chunks.stored),
        chunks=len(manifest.chunks),
        created=manifest.created,
        base=manifest.base.name if manifest.base else "",
        digest=layer.digest.hex(),
    )


def describe(image: Image) -> Description:
    """What the resolved image is."""
    pages = {kind.name.lower(): 0 for kind in Kind if kind is not Kind.PARENT}
    used = bytearray(len(image.chunks))
    seen = [bytearray(image.chunks.pages(chunk)) for chunk in range(len(image.chunks))]
    for extent in image.extents(0, image.pages):
        pages[extent.kind.name.lower()] += extent.count
        if extent.kind is Kind.CHUNK:
            used[extent.chunk] = 1
            end = extent.slot + extent.count
            seen[extent.chunk][extent.slot : end] = b"\1" * extent.count
    stored = {
        image.chunks.digest(chunk): image.chunks.stored_length(chunk)
        for chunk in range(len(used))
        if used[chunk]
    }
    return Description(
        summary=summary(image.layers[0]),
        pages=pages,
        distinct=sum(each.count(1) for each in seen),
        stored=sum(stored.values()),
        chunks=len(stored),
        layers=[layer.name for layer in image.layers],
        about=image.about,
        regions=list(image.regions),
    )
