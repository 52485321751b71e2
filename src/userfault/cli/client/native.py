"""Our own client, `userfault.lazy(..., pager=connect(path))`, walked over as the others are."""

from __future__ import annotations

import os
import resource

import msgspec

from userfault.api.connecting import connect
from userfault.api.lazy import lazy
from userfault.client import talking
from userfault.client.board import Board, Step
from userfault.client.expected import Expected
from userfault.client.memory import Image, Region
from userfault.client.results import Said
from userfault.client.touching import Walk, Walker
from userfault.kernel.errors import PagerError
from userfault.linux.libc import Pinned


class Native(msgspec.Struct, frozen=True):
    """What is posed.  `memory`: as `lazy` names it."""

    socket: str
    image: str
    walk: Walk = Walk()
    memory: str = "anon"
    page_size: int = 4096


def run(asked: Native, board: Board) -> None:
    """Map it lazily, touch, and tell."""
    image = Image(asked.image, asked.page_size)
    board.begin(0, Step.CONNECT)
    try:
        memory = lazy(
            asked.image,
            memory=asked.memory,
            page_size=asked.page_size,
            writable=True,
            pager=connect(asked.socket),
        )
    except PagerError as error:
        raise talking.RefusedError(str(error)) from None
    board.end(0)
    with Pinned(memory) as pinned:
        region = Region(pinned.address, image.length, 0)
        expected = Expected(image, [region], asked.page_size)
        walker = Walker(asked.walk, expected, image, board)
        talking.say(Said(stage="sent", steps=walker.steps))
        talking.say(Said(stage="ended", result=walker.run()))


def main() -> None:
    """The process."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    asked, board = talking.told(Native)
    with talking.telling():
        run(asked, board)
    os._exit(0)


if __name__ == "__main__":
    main()
