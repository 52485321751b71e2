"""Several writers that want one name of a store in the same moment."""

from __future__ import annotations

import threading
from collections.abc import Callable

from userfault.snapshot.errors import AlreadyThere
from userfault.snapshot.stores.objects import Objects


def claimed_at_once(
    opened: Callable[[], Objects], content: Callable[[int], bytes]
) -> tuple[list[int], list[int]]:
    """Six threads put `content` of their number as `snapshots/name`, new: who won, and who lost."""
    won: list[int] = []
    lost: list[int] = []
    start = threading.Barrier(6)

    def claim(number: int) -> None:
        store = opened()
        start.wait()
        try:
            store.put("snapshots/name", content(number), new=True)
        except AlreadyThere:
            lost.append(number)
        else:
            won.append(number)

    threads = [threading.Thread(target=claim, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return won, lost
