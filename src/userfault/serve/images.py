"""The images that clients are shown: opened once, each client gets a descriptor of its own."""

from __future__ import annotations

import os

from userfault.serve.peers import RefusedError
from userfault.serve.records import Daemon, Image
from userfault.source.spec import Spec


class Images:
    """Those of `daemon`, by name.  `kept`: the descriptors that the family keeps."""

    def __init__(self, daemon: Daemon, kept: list[int]) -> None:
        self._daemon = daemon
        self._kept = kept

    def spec(self, name: str) -> Spec:
        """What it is.  Raises RefusedError where there is none of that name."""
        return self._found(name).spec

    def source(self, name: str) -> tuple[Spec, int]:
        """What it is, and a descriptor that is the caller's.  Raises RefusedError, OSError."""
        image = self._found(name)
        return image.spec, os.dup(self._kept[image.kept])

    def tree(self, name: str) -> int:
        """The descriptor of where the memory of each process lies in it.  Raises RefusedError."""
        image = self._found(name)
        if image.tree < 0:
            raise RefusedError(
                f"the image {name!r} for a restore of CRIU",
                cause="it is the memory of no tree of processes",
                cure="name a snapshot that userfault pack --criu has made",
            )
        return self._kept[image.tree]

    def _found(self, name: str) -> Image:
        for image in self._daemon.images:
            if image.name == name:
                return image
        raise RefusedError(
            f"there is no image {name!r} here" if name else "a client without an image",
            cause="the socket has none, and nobody has said which one this client gets",
            cure="name it when the daemon is started, or by `userfault attach`",
        )
