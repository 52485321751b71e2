"""Pages for a restore elsewhere: from the images of a dump, or from a snapshot in a store."""

from __future__ import annotations

import os
import threading
from typing import Protocol

from userfault.serve.peers import RefusedError
from userfault.snapshot.errors import FormatError
from userfault.snapshot.format.page_maps import PageMaps
from userfault.snapshot.inputs.criu_pages import Layers
from userfault.snapshot.inputs.opening import is_dump
from userfault.snapshot.inputs.protocol import PAGE
from userfault.snapshot.serving import handover, taking_up
from userfault.snapshot.serving.image import open_image
from userfault.snapshot.stores.opening import open_objects
from userfault.snapshot.stores.place import place_of
from userfault.source.spec import StoreSpec
from userfault.wire.criu.page_server import PageMap, Request


class Giving(Protocol):
    """Where pages come from.  Thread-safe."""

    def pages(self, request: Request, most: int) -> memoryview:
        """Pages from the address that is asked for on, at least one, `most` at the most.

        Raises RefusedError where there is none, SourceError, FormatError.
        """
        ...

    def close(self) -> None:
        """Let go of it."""
        ...


class FromImages:
    """The folder of a dump.  Raises FormatError where it is none."""

    def __init__(self, folder: str) -> None:
        self._folder = folder
        self._lock = threading.Lock()
        self._maps: dict[PageMap, Layers] = {}
        if not is_dump(folder):
            raise FormatError(
                f"{folder} holds no CRIU dump",
                cause="there is no pstree.img in it",
                cure="name the folder that was given as --images-dir",
            )

    def pages(self, request: Request, most: int) -> memoryview:
        """See `Giving`."""
        assert request.map is not None
        count = min(request.pages, most)
        data = bytearray(count * PAGE)
        done = 0
        with self._lock:
            layers = self._layers(request.map)
            for found in layers.present(request.address, request.address + count * PAGE):
                if found.address != request.address + done:
                    break
                part = memoryview(data)[done : done + found.pages * PAGE]
                _read(found.fd, part, found.position * PAGE, self._folder)
                done += len(part)
        if not done:
            raise no_page(request)
        return memoryview(data)[:done]

    def close(self) -> None:
        """Close its files."""
        with self._lock:
            for layers in self._maps.values():
                layers.close()
            self._maps = {}

    def _layers(self, held: PageMap) -> Layers:
        """Of a map, opened once."""
        if held not in self._maps:
            if not os.path.exists(os.path.join(self._folder, f"pagemap-{held}.img")):
                raise RefusedError(
                    f"a restore that asks for pages of task {held}",
                    cause=f"{self._folder} has no pagemap-{held}.img",
                    cure="serve the dump from which it restores",
                )
            self._maps[held] = Layers(self._folder, str(held))
        return self._maps[held]


def _read(fd: int, target: memoryview, position: int, folder: str) -> None:
    done = 0
    while done < len(target):
        count = os.preadv(fd, [target[done:]], position + done)
        if not count:
            raise FormatError(
                f"a file of pages in {folder} got shorter",
                cause="it was written to while it was read",
                cure="serve an intact copy",
            )
        done += count


class FromStore:
    """A snapshot of a process tree.  Raises NoSuchSnapshot, FormatError, StoreError."""

    def __init__(self, store: str, name: str) -> None:
        image = open_image(open_objects(store), name)
        self._maps = PageMaps(image.regions)
        resolved = handover.resolve(store, name)
        try:
            assert isinstance(resolved.spec, StoreSpec)
            self._source, _ = taking_up.take_up(resolved.spec, resolved.fd, PAGE)
        finally:
            resolved.close()

    def pages(self, request: Request, most: int) -> memoryview:
        """See `Giving`."""
        assert request.map is not None
        found = self._maps.find(str(request.map), request.address)
        if found is None:
            raise no_page(request)
        offset, left = found
        return self._source.read(offset, min(request.pages * PAGE, left, most * PAGE))

    def close(self) -> None:
        """Let go of the store."""
        self._source.close()


def giving(what: str) -> FromImages | FromStore:
    """From `STORE/NAME` or the folder of a dump."""
    place = place_of(what)
    return FromImages(os.path.abspath(what)) if place is None else FromStore(*place)


def no_page(request: Request) -> RefusedError:
    """There is none at this address."""
    return RefusedError(
        f"a restore that asks for the page at {request.address:#x} of task {request.map}",
        cause="the dump has none there",
        cure="serve the dump from which it restores",
    )
