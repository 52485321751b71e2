"""The layers of a snapshot as one flat table of runs: each page from the topmost that has it.

The image is walked once, from its first page to its last; where a layer says "as in the base" the
walk goes down, no further than it must.  So the cost is that of what is seen, not of the layers
times what lies below, and it is bounded whatever the layers say.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from itertools import accumulate

from userfault.snapshot.errors import FormatError
from userfault.snapshot.format.manifest import MOST_SLOTS, ChunkTable, Manifest
from userfault.snapshot.format.runs import CHUNK, PARENT, Runs
from userfault.snapshot.stores.keys import DIGEST_BYTES


def flatten(name: str, layers: Sequence[Manifest], most_steps: int) -> tuple[Runs, ChunkTable]:
    """The runs and the chunks of the snapshot `name`, whose layers begin with its own.

    A chunk that several layers have is told to lie where the topmost has it.  Raises FormatError
    where a layer refers to pages that its base does not have, or the walk has more than
    `most_steps`: runs of a layer that were seen.
    """
    if len(layers) == 1:
        return layers[0].runs, layers[0].chunks
    return _Walk(name, layers, most_steps).runs()


class _Walk:
    def __init__(self, name: str, layers: Sequence[Manifest], most_steps: int) -> None:
        self._name = name
        self._layers = layers
        self._most_steps = most_steps
        self._chunks = ChunkTable()
        self._shifts: list[int] = []  # of each layer: the first slot of its chunks in the flat one
        # Of each layer: chunks that one above has too, with their first slots there.
        self._moved: list[dict[int, int]] = []
        self._moved_ends: list[list[int]] = []  # where these end in their layer, in order
        seen: dict[bytes, int] = {}
        for layer in layers:
            self._join(layer.chunks, seen)

    def _join(self, own: ChunkTable, seen: dict[bytes, int]) -> None:
        """Append the chunks of a layer; `seen`: where those above have theirs."""
        table = self._chunks
        first, shift = len(table), table.slots
        if shift + own.slots > MOST_SLOTS:
            raise too_many(self._name, f"they have more than {MOST_SLOTS} pages in chunks")
        table.digests += own.digests
        table.stored += own.stored
        table.starts.extend(array("Q", (at + shift for at in own.starts[1:])))
        moved: dict[int, int] = {}
        held = bytes(own.digests)
        digests = [held[at : at + DIGEST_BYTES] for at in range(0, len(held), DIGEST_BYTES)]
        for number, same in enumerate(map(seen.setdefault, digests, range(first, len(table)))):
            if same < first and table.pages(same) == own.pages(number):
                moved[number] = table.starts[same]
        self._shifts.append(shift)
        self._moved.append(moved)
        self._moved_ends.append([own.starts[number + 1] for number in moved])

    def runs(self) -> tuple[Runs, ChunkTable]:
        """Walk."""
        all_runs = [layer.runs for layer in self._layers]
        starts = [list(accumulate(runs.counts, initial=0)) for runs in all_runs]
        values = [runs.values.tolist() for runs in all_runs]
        at = [0] * len(all_runs)  # the run where the walk is in each layer: it goes forth alone
        ends = [starts[0][-1]]  # of the pages that each layer from the top is asked for
        flat = Runs()
        page = steps = 0
        while ends:
            depth = len(ends) - 1
            end = ends[depth]
            if page == end:
                ends.pop()
                continue
            its, run = starts[depth], at[depth]
            if its[run + 1] <= page:
                run = at[depth] = bisect_right(its, page, run) - 1
            stop = min(end, its[run + 1])
            kind = all_runs[depth].kinds[run]
            if kind == PARENT:
                if stop > starts[depth + 1][-1]:
                    raise self._beyond(depth, page, stop, starts[depth + 1][-1])
                ends.append(stop)
            else:
                value = values[depth][run]
                if kind == CHUNK:
                    self._append(flat, depth, stop - page, value + page - its[run])
                else:
                    flat.append(stop - page, kind, value)
                page = stop
            steps += 1
            if steps > self._most_steps:
                cause = f"more than {self._most_steps} runs of pages are to be looked at"
                raise too_many(self._name, cause)
        return flat, self._chunks

    def _append(self, flat: Runs, depth: int, count: int, slot: int) -> None:
        """Append pages in slots of a layer, in the slots that they have in the flat table."""
        moved, shift = self._moved[depth], self._shifts[depth]
        ends = self._moved_ends[depth]
        next_moved = bisect_right(ends, slot)  # the first that does not end before these pages
        if next_moved == len(ends) or not self._begins_before(
            depth, ends[next_moved], slot + count
        ):
            flat.append(count, CHUNK, slot + shift)
            return
        chunks = self._layers[depth].chunks
        chunk, within = chunks.find(slot)
        while count:
            part = min(count, chunks.pages(chunk) - within)
            flat.append(part, CHUNK, moved.get(chunk, chunks.starts[chunk] + shift) + within)
            count -= part
            chunk, within = chunk + 1, 0

    def _begins_before(self, depth: int, end: int, slot: int) -> bool:
        """Whether the chunk of a layer that ends at slot `end` begins before `slot`."""
        starts = self._layers[depth].chunks.starts
        return starts[bisect_left(starts, end) - 1] < slot

    def _beyond(self, depth: int, page: int, stop: int, there: int) -> FormatError:
        which = self._name if depth == 0 else f"{self._name} ({depth} layers below it)"
        return FormatError(
            f"snapshot {which!r} refers to pages that its base does not have",
            cause=f"pages {page} to {stop} of {there}",
            cure="the manifest is damaged: restore it from a copy of the store",
        )


def too_many(name: str, cause: str) -> FormatError:
    """The error of layers that would take too long, or too much memory."""
    return FormatError(
        f"the layers of snapshot {name!r} are too many to resolve",
        cause=cause,
        cure="`userfault squash --to NAME` makes one of them, which takes its time",
    )
