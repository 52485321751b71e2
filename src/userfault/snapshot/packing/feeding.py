"""The pages of an input on their way to the classifier: a working set first, then all in order."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from userfault.kernel.errors import UsageError
from userfault.snapshot.format.manifest import pages_of
from userfault.snapshot.format.runs import HOLE, PARENT, ZERO
from userfault.snapshot.inputs.protocol import PAGE, Holds, MovingInput, PageInput, Run
from userfault.snapshot.packing.classify import Classifier
from userfault.snapshot.packing.ground import Ground

_BLOCK = 64  # pages read at once: with their copies they fit in a CPU's second cache


class Feed:
    """Gives the pages of `pages`, which become the snapshot `name`, to `classifier`.

    `tell` hears how many it had, often.
    """

    def __init__(
        self,
        pages: PageInput,
        classifier: Classifier,
        ground: Ground,
        name: str,
        tell: Callable[[int], None],
    ) -> None:
        self._pages = pages
        self._classifier = classifier
        self._ground = ground
        self._name = name
        self._tell = tell

    def all(self, first: Sequence[int] | None) -> None:
        """All of them, those of `first` before the others.

        Raises UsageError where `first` has a page that there is none, or where the input refers to
        a base and there is none; and what the input and the classifier raise.
        """
        runs: Iterator[Run] | list[Run] = self._pages.runs()
        if first:
            runs = list(runs)
            self._early(runs, first)
        self._in_order(runs)
        if isinstance(self._pages, MovingInput):
            for page, data in self._pages.again():
                self._classifier.again(page, bytes(data))
        self._classifier.finish()

    def _early(self, runs: list[Run], order: Sequence[int]) -> None:
        """The pages of a working set, of those that hold data."""
        data = bytearray(pages_of(self._pages.length))
        for run in runs:
            if run.holds is Holds.DATA:
                data[run.first : run.first + run.pages] = b"\1" * run.pages
        for page in order:
            if not 0 <= page < len(data):
                raise UsageError(
                    f"page {page} is to be stored first, of an image of {len(data)} pages",
                    cure="give the working set of this image",
                )
            if data[page]:
                self._classifier.early(page, bytes(self._pages.read(page, 1)))

    def _in_order(self, runs: Iterator[Run] | list[Run]) -> None:
        classifier = self._classifier
        for first, pages, holds in runs:
            if holds is Holds.DATA:
                for page in range(first, first + pages, _BLOCK):
                    count = min(_BLOCK, first + pages - page)
                    classifier.pages(page, bytes(self._pages.read(page, count)))
                    self._tell(page + count)
            elif holds is Holds.BASE:
                self._as_in_base(first, pages)
            else:
                classifier.runs.append(pages, ZERO if holds is Holds.ZERO else HOLE)
            self._tell(first + pages)

    def _as_in_base(self, first: int, pages: int) -> None:
        base, in_base = self._ground.base, self._ground.in_base
        if base is None or in_base is None:
            raise UsageError(
                f"cannot pack {self._name!r} without a base",
                cause="the input has only the pages that changed",
                cure="name the snapshot that they changed from as the base",
            )
        inside = min(pages, max(0, base.pages - first))
        # The image may end within a page of which the base has more: it ends in zeros.
        end = self._pages.length
        cut = inside > 0 and first + inside == pages_of(end) and end < base.length
        runs = self._classifier.runs
        runs.append(inside - cut, PARENT)
        if cut:
            last = first + inside - 1
            kept = in_base.read(last)[: end - last * PAGE]
            self._classifier.pages(last, kept.ljust(PAGE, b"\0"))
        runs.append(pages - inside, ZERO)
