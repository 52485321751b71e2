"""What `--criu` names: where CRIU restores, and from what."""

from __future__ import annotations

import os
from collections.abc import Iterable

from userfault.api.daemon import Listen
from userfault.kernel.errors import UsageError
from userfault.snapshot.inputs.opening import is_dump

_SOCKET = "lazy-pages.socket"


def listen(places: Iterable[str], images: dict[str, str]) -> list[Listen]:
    """The sockets of `WORKDIR[=IMAGES]` and `WORKDIR=STORE/NAME`; snapshots are put into `images`.

    Raises UsageError for what is neither a folder of images nor could be a snapshot.
    """
    found = []
    for place in places:
        work, equals, source = place.partition("=")
        path = os.path.join(work, _SOCKET)
        source = source if equals else work
        if is_dump(source):
            found.append(Listen("criu", path, dump=source))
            continue
        if os.path.isdir(source) or "/" not in source:
            raise UsageError(
                f"--criu {place}",
                cause=f"{source} has no pstree.img: it is no folder of CRIU's images",
                cure="write WORKDIR=IMAGES, or WORKDIR=STORE/NAME for a snapshot of them",
            )
        name = f"criu {os.path.abspath(work)}"
        images[name] = source
        found.append(Listen("criu", path, name))
    return found
