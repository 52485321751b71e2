"""How densely pages are touched around a fault, from faults alone.

A page that was filled in advance raises no fault: nobody learns whether it was touched.  So three
things are looked at, in blocks as large as the largest window and in quarters of them:

* What this block has cost.  Once its faults have cost what the rest of it would, it is filled:
  whatever comes, that is at most twice as dear as the best choice (renting skis, or buying them).
* What its neighbourhood of 16 MiB has cost.  Nobody knows how long random touches will go on: the
  first touches of one page in a hundred look like the first of one in four.  Once more than one
  page in `_DENSE` has faulted there, the first fault of a block fills it, and soon several.
* What blocks cost elsewhere, from their first fault on: in those that were not filled then.  One
  block in sixteen never is, so that this stays known.  Before that is known: whether touches lie
  together; then quarters of blocks are filled.  All memories that show one image learn together.
"""

from __future__ import annotations

from array import array

_AREA_SHIFT = 12  # log2 of the pages of a neighbourhood
_AREA = 1 << _AREA_SHIFT
# Pages, one of which has faulted: random touches of one in a hundred stay below.  The more a fault
# costs, the sooner.
_DENSE, _DENSE_AT, _MOST_DENSE = 50, 12.0, 70
_SURE = 16  # faults more, after which four blocks are filled at once
_WIDE = 4
_LEAST_DENSE = 8  # faults of a neighbourhood that is small
_KEEN = 64.0  # pages that a fault costs, from which on it is much sooner
_KNOWN = 8.0  # blocks seen before they are believed
_REMEMBERED = 256.0
_REMEMBERED_BY_ALL = 1 << 14  # where many show an image: their faults come long after each other
# Touches lie together if quarters that have faulted are met so many times as often as by chance,
# and a few times more.
_TOGETHER, _BY_LUCK = 4, 8
_EVERY = 32  # faults from one look at costs to the next


class _Seen:
    """What blocks of `size` pages cost that their first fault did not fill: `begun` blocks, and the
    faults that came `further`.

    `average`: faults that came further, of each.  `worth`: more than filling it at first costs.
    `bearable`: how many faults one may cost before it is filled.
    """

    __slots__ = ("_least", "_most", "average", "bearable", "begun", "further", "size", "worth")

    def __init__(self, size: int, least: int, remembered: float) -> None:
        self.size = size
        self._most = remembered
        self._least = least  # in fewer touches of one page in a hundred come together by chance
        self.begun = 0.0
        self.further = 0.0
        self.average = 0.0
        self.worth = False
        self.bearable = 255

    def look(self, ratio: float) -> None:
        """A fault costs as much as `ratio` pages: decide anew."""
        rest = (self.size - 1) / (ratio + 1)
        self.average = self.further / self.begun if self.begun else 0.0
        self.worth = self.begun >= _KNOWN and self.average > rest
        self.bearable = max(self._least, -int(-0.8 * (self.size - 1) // (ratio + 1)))
        if self.begun > self._most:
            self.begun /= 2
            self.further /= 2


class Experience:
    """What blocks cost in an image, in all memories that show it: in one clone of a program others
    are told of what they will touch.  `block`: pages of the largest window.

    `met`: faults in a quarter of a block that had faulted before; `by_chance`: how many they would
    be if touches did not lie together.
    """

    __slots__ = ("block", "by_chance", "met", "part")

    def __init__(self, block: int, remembered: float = _REMEMBERED_BY_ALL) -> None:
        self.met = 0
        self.by_chance = 0.0
        self.part = _Seen(max(block // 4, 1), 3, remembered)
        self.block = _Seen(block, 4, remembered)

    def look(self, ratio: float) -> None:
        """Decide anew what is worth it."""
        self.block.look(ratio)
        self.part.look(ratio)
        if self.met > _TOGETHER * self.by_chance + _BY_LUCK:
            self.part.worth = True


class Density:
    """Faults of a mapping of `pages` pages, by place.  `block`: pages of the largest window.

    `experience`: of others, too.  `spared`: how many faults blocks that were filled have spared, by
    what others cost.
    """

    __slots__ = (
        "_areas",
        "_begun",
        "_block",
        "_blocks",
        "_enough",
        "_experience",
        "_faults",
        "_pages",
        "_part",
        "_parts",
        "_until",
        "spared",
    )

    def __init__(self, pages: int, block: int, experience: Experience | None = None) -> None:
        self._pages = pages
        self._experience = experience or Experience(block, _REMEMBERED)
        self._part, self._block = self._experience.part, self._experience.block
        # Faults of each block and part, up to 255, and of each neighbourhood: made by the first.
        self._blocks = self._parts = bytearray()
        self._areas = array("I")
        self._enough = 0
        self._begun = 0  # parts that have faulted
        self._faults = 0
        self._until = 0
        self.spared = 0.0

    def around(self, page: int, ratio: float) -> int:
        """A fault that no stream foresaw: how many pages are to be filled, the aligned ones around
        it; 1 for itself alone.  A fault costs as much as `ratio` pages."""
        self._faults += 1
        if self._faults > self._until:
            self._look(ratio)
        block = self._block
        at = page // block.size
        blocks = self._blocks
        before = blocks[at]
        if before < 255:
            blocks[at] = before + 1
        area = page >> _AREA_SHIFT
        self._areas[area] = seen = self._areas[area] + 1
        if seen > self._enough:
            block.further += 2 * before  # at least as many again
            self.spared += block.average
            return block.size * (_WIDE if seen > self._enough + _SURE else 1)
        if not before:
            if block.worth and not _watched(at):
                self.spared += block.average
                return block.size
            block.begun += 1
        else:
            block.further += 1
            if before >= block.bearable - 1:
                block.further += before
                self.spared += block.average
                return block.size
        return self._quarter(page, at)

    def _quarter(self, page: int, at: int) -> int:
        """The same for a quarter of block `at`."""
        part, parts, experience = self._part, self._parts, self._experience
        experience.by_chance += self._begun / len(parts)
        place = page // part.size
        before = parts[place]
        if before < 255:
            parts[place] = before + 1
        if not before:
            self._begun += 1
            if part.worth and not _watched(at):
                return part.size
            part.begun += 1
            return 1
        experience.met += 1
        part.further += 1
        if before >= part.bearable - 1 or (part.worth and not _watched(at)):
            part.further += before
            return part.size
        return 1

    def _look(self, ratio: float) -> None:
        """Decide anew what is worth it."""
        if not self._until:
            pages = self._pages
            self._blocks = bytearray(pages // self._block.size + 1)
            self._parts = bytearray(pages // self._part.size + 1)
            self._areas = array("I", bytes(4 * ((pages >> _AREA_SHIFT) + 1)))
            # The last one is smaller, so it begins with what it lacks.
            enough = max((pages % _AREA) // _DENSE, _LEAST_DENSE)
            self._areas[-1] = max(_AREA // _DENSE - enough, 0)
        self._until = self._faults + _EVERY
        self._experience.look(ratio)
        dense = min(_DENSE * max(ratio / _DENSE_AT, 1.0) ** 0.5, _MOST_DENSE)
        self._enough = int(_AREA / dense * min(_KEEN / ratio, 1.0))


def _watched(block: int) -> bool:
    """One block in sixteen, with no order in it (the golden ratio; Knuth, TAOCP 6.4)."""
    return (block * 0x9E3779B1 >> 12) & 15 == 0
