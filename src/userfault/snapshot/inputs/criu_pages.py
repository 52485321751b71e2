"""Where the pages of a CRIU dump are: in its own files, or in those of its parents."""

from __future__ import annotations

import bisect
import os
from collections.abc import Iterator
from typing import NamedTuple

from userfault.snapshot.errors import FormatError
from userfault.snapshot.inputs import criu_images
from userfault.snapshot.inputs.criu_images import LAZY, PARENT, PRESENT, PageMap
from userfault.snapshot.inputs.protocol import PAGE
from userfault.source.opening import NoFileError, open_file


class Found(NamedTuple):
    """`pages` pages from `address` on, which begin at page `position` of the open file `fd`."""

    address: int
    pages: int
    fd: int
    position: int


class Layer(NamedTuple):
    """The page map of one folder, and its open `pages-N.img`."""

    path: str
    entries: PageMap
    fd: int


class Layers:
    """The page map NAME (a pid, `shmem-ID`) of a dump, and of its parents, the nearest first.

    Raises FormatError where one of them is damaged or missing.
    """

    def __init__(self, folder: str, name: str) -> None:
        self._layers: list[Layer] = []
        self._name = name
        try:
            for each in _with_parents(folder):
                if not os.path.exists(os.path.join(each, f"pagemap-{name}.img")):
                    break
                self._layers.append(self._open(each))
        except BaseException:
            self.close()
            raise
        if not self._layers:
            raise FormatError(
                f"{folder} lacks pagemap-{name}.img",
                cause="the dump is not complete",
                cure="dump again, or take another copy",
            )

    def close(self) -> None:
        """Close the files."""
        for layer in self._layers:
            os.close(layer.fd)
        self._layers = []

    def present(self, start: int, end: int) -> Iterator[Found]:
        """The pages of [start, end) that the dump has, in ascending order."""
        return self._present(0, start, end)

    def lazy(self) -> Iterator[tuple[int, int]]:
        """The addresses [start, end) of entries that a lazy restore leaves to others."""
        top = self._layers[0].entries
        for address, pages, flags in zip(top.address, top.pages, top.flags, strict=True):
            if flags & LAZY:
                yield address, address + pages * PAGE

    def _present(self, depth: int, start: int, end: int) -> Iterator[Found]:
        entries = self._layers[depth].entries
        at = max(0, bisect.bisect_right(entries.address, start) - 1)
        for number in range(at, len(entries)):
            address, pages = entries.address[number], entries.pages[number]
            first, last = max(start, address), min(end, address + pages * PAGE)
            if address >= end:
                return
            if first >= last:
                continue
            flags = entries.flags[number]
            if flags & PRESENT:
                position = entries.position[number] + (first - address) // PAGE
                fd = self._layers[depth].fd
                yield Found(first, (last - first) // PAGE, fd, position)
            elif flags & PARENT:
                yield from self._of_parent(depth, first, last)
            elif flags & LAZY:
                raise FormatError(
                    f"{self._layers[depth].path} lacks the pages at {first:#x}",
                    cause="it is of a dump with --lazy-pages: they are still in the process",
                    cure="dump without --lazy-pages",
                )

    def _of_parent(self, depth: int, start: int, end: int) -> Iterator[Found]:
        at = start
        if depth + 1 < len(self._layers):
            for found in self._present(depth + 1, start, end):
                if found.address != at:
                    break
                yield found
                at += found.pages * PAGE
        if at < end:
            raise FormatError(
                f"{self._layers[depth].path} has pages in its parent that are not there",
                cause=f"nothing at {at:#x} in the folder that its link `parent` leads to",
                cure="put the folders of earlier dumps back where the links lead to",
            )

    def _open(self, folder: str) -> Layer:
        entries = criu_images.page_map(folder, self._name)
        path = os.path.join(folder, f"pages-{entries.pages_id}.img")
        try:
            fd = open_file(path)
        except NoFileError as error:
            raise FormatError(
                f"{path} is damaged",
                cause=error.strerror or "",
                cure="dump again, or take another copy",
            ) from None
        except FileNotFoundError:
            if entries.stored:
                raise FormatError(
                    f"{folder} lacks pages-{entries.pages_id}.img",
                    cause=f"pagemap-{self._name}.img names it",
                    cure="dump again, or take another copy",
                ) from None
            fd = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
        if os.fstat(fd).st_size < entries.stored * PAGE:
            os.close(fd)
            raise FormatError(
                f"{path} is too short",
                cause=f"pagemap-{self._name}.img tells of {entries.stored} pages in it",
                cure="dump again, or take another copy",
            )
        return Layer(os.path.join(folder, f"pagemap-{self._name}.img"), entries, fd)


def _with_parents(folder: str) -> Iterator[str]:
    """The folder, and those that the links `parent` lead to."""
    seen = set()
    while True:
        state = os.stat(folder)
        if (state.st_dev, state.st_ino) in seen:
            raise FormatError(
                f"the parents of {folder} lead back to it",
                cause="a link `parent` is wrong",
                cure="put it right: each dump's parent is the dump before it",
            )
        seen.add((state.st_dev, state.st_ino))
        yield folder
        folder = os.path.join(folder, "parent")
        if not os.path.isdir(folder):
            return
