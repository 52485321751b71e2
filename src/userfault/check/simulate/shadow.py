"""What each page of a client may show: said by what clients did, not by what the pager did.

Operations of several tasks overlap, and then either order is right.  So a page has a set of
contents that it may show; an operation adds its own when it begins, and takes away what was there
before it when it has ended.
"""

from __future__ import annotations

WIDTH = 16  # bytes of a page that are written and read at once
ZEROS = bytes(WIDTH)


def content(text: str) -> bytes:
    """What a page begins with."""
    return text.encode().ljust(WIDTH, b"\0")


class Effect:
    """An operation under way that gives a page a content, one of `values`."""

    __slots__ = ("others", "values")

    def __init__(self, values: set[bytes]) -> None:
        self.values = values
        self.others: set[bytes] = set()  # of operations that overlapped with it


class Page:
    """One page of memory, wherever it is mapped.

    `number`: in the source; -1 for none.  `known`: the pager had a way to know that the page is not
    the source's any more (it filled it, or was told); a hole punched into a page that it never saw
    leaves both answers right.
    """

    def __init__(self, number: int, allowed: set[bytes]) -> None:
        self.number = number
        self.allowed = allowed
        self.known = False
        self._under_way: list[Effect] = []
        self._readers: list[set[bytes]] = []

    def begin(
        self, value: bytes, *, passing: bytes | None = None, instead: bytes | None = None
    ) -> Effect:
        """An operation begins, after which the page shows `value`, or `instead` where both answers
        are right; on the way perhaps `passing`."""
        effect = Effect({value} if instead is None else {value, instead})
        for other in self._under_way:
            effect.others |= other.values
            other.others |= effect.values
        self._under_way.append(effect)
        for each in (*effect.values, *(() if passing is None else (passing,))):
            self._may_be(each)
        return effect

    def end(self, effect: Effect) -> None:
        """It has ended, and the page shows its content, or that of one that overlapped with it."""
        self._under_way.remove(effect)
        still = {value for other in self._under_way for value in other.values}
        self.allowed = effect.values | effect.others | still

    def perhaps(self, effect: Effect) -> None:
        """It has ended, with or without an effect."""
        self._under_way.remove(effect)

    def open(self) -> set[bytes]:
        """A read begins: what it may see from now on."""
        window = set(self.allowed)
        self._readers.append(window)
        return window

    def close(self, window: set[bytes]) -> None:
        """The read has ended."""
        self._readers = [each for each in self._readers if each is not window]

    def saw(self, window: set[bytes], value: bytes) -> bool:
        """A read has ended with `value`: whether it may."""
        self.close(window)
        if value not in window:
            return False
        if not self._under_way and window == self.allowed:  # nothing has happened meanwhile
            self.allowed = {value}
        self.known = True
        return True

    def _may_be(self, value: bytes) -> None:
        self.allowed.add(value)
        for window in self._readers:
            window.add(value)


class Space:
    """What one process has mapped of the memory: pages by address.

    `leaving`: addresses that a call takes away, or has taken.
    """

    def __init__(self, pages: dict[int, Page]) -> None:
        self.pages = pages
        self.leaving: set[int] = set()
        self.ended = False

    def forked(self, windows: dict[int, set[bytes]], *, shared: bool) -> Space:
        """That of a child, whose private pages show what they showed meanwhile."""
        if shared:
            return Space(dict(self.pages))
        pages = {}
        for address, page in self.pages.items():
            pages[address] = child = Page(page.number, set(windows[address]))
            child.known = page.known
        return Space(pages)
