"""The manifests of a store, each by itself: one, or all.  What they resolve to is `image`'s."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import NamedTuple

from userfault.snapshot.errors import FormatError, NoSuchObject, NoSuchSnapshot
from userfault.snapshot.format import envelope, manifest
from userfault.snapshot.format.manifest import Manifest
from userfault.snapshot.stores.keys import SNAPSHOTS, is_name, snapshot_key
from userfault.snapshot.stores.objects import Objects


class Layer(NamedTuple):
    """One manifest of a chain."""

    name: str
    digest: bytes
    manifest: Manifest


def read_layer(objects: Objects, name: str) -> Layer:
    """One manifest, not resolved.  Raises NoSuchSnapshot, FormatError, StoreError."""
    try:
        data = objects.get(snapshot_key(name), most=manifest.MOST_STORED)
    except NoSuchObject as error:
        raise NoSuchSnapshot(
            f"there is no snapshot {name!r} in {objects.url}",
            cause=error.cause,
            cure="`userfault ls` lists those that are there",
        ) from None
    found = manifest.decode(data, f"the manifest of snapshot {name!r}")
    return Layer(name, envelope.digest_of(data), found)


def snapshot_names(objects: Objects) -> list[str]:
    """The snapshots of a store, sorted."""
    found = (listed.key.removeprefix(SNAPSHOTS) for listed in objects.list(SNAPSHOTS))
    return sorted(name for name in found if is_name(name))


def all_layers(objects: Objects, *, but: str = "", damaged: bool = True) -> Iterator[Layer]:
    """The manifest of each snapshot `but` one; what is removed meanwhile is left out.

    Raises FormatError at one that is damaged; without `damaged` these are left out too.
    """
    passed = (NoSuchSnapshot,) if damaged else (NoSuchSnapshot, FormatError)
    for name in snapshot_names(objects):
        if name == but:
            continue
        with contextlib.suppress(*passed):
            yield read_layer(objects, name)
