"""Descriptors that the family keeps: their places are named in the record, and must not move."""

from __future__ import annotations


def keep(kept: list[int], fd: int) -> int:
    """Its place in `kept`: one that is free is used again."""
    if -1 in kept:
        place = kept.index(-1)
        kept[place] = fd
        return place
    kept.append(fd)
    return len(kept) - 1


def let_go(kept: list[int], place: int) -> int:
    """The descriptor there, which is the caller's; it is closed once no record names it."""
    fd, kept[place] = kept[place], -1
    return fd
