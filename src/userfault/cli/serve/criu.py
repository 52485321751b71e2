"""What `--criu` names: where CRIU restores, and from what."""

from __future__ import annotations

import os
from collections.abc import Iterable

from userfault.api.daemon import Listen
from userfault.kernel.errors import UsageError
from userfault.serve.page_server.asking import SCHEME
from userfault.snapshot.inputs.opening import is_dump

_SOCKET = "lazy-pages.socket"


def listen(places: Iterable[str], images: dict[str, str]) -> list[Listen]:
    """The sockets of `WORKDIR[=IMAGES]`, `WORKDIR=STORE/NAME`, `WORKDIR=criu://HOST:PORT[/IMAGES]`.

    Snapshots and page servers are put into `images`.  Raises UsageError for what is none of these.
    """
    found = []
    for place in places:
        work, equals, source = place.partition("=")
        path = os.path.join(work, _SOCKET)
        source = source if equals else work
        name = f"criu {os.path.abspath(work)}"
        if source.startswith(SCHEME):
            alone = "/" not in source.removeprefix(SCHEME)
            images[name] = source + (os.path.abspath(work) if alone else "")
            found.append(Listen("criu", path, name))
            continue
        if is_dump(source):
            found.append(Listen("criu", path, dump=source))
            continue
        if os.path.isdir(source) or "/" not in source:
            raise UsageError(
                f"--criu {place}",
                cause=f"{source} has no pstree.img: it is no folder of CRIU's images",
                cure="write WORKDIR=IMAGES, or WORKDIR=STORE/NAME for a snapshot of them",
            )
        images[name] = source
        found.append(Listen("criu", path, name))
    return found
