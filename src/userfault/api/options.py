"""The options of `lazy()` as values: what NumPy's numbers and path objects stand for."""

from __future__ import annotations

import functools
import os
from typing import Any

import msgspec

from userfault.kernel.memtypes import Memory
from userfault.kernel.numbers import flag, whole


class Options(msgspec.Struct, frozen=True):
    """What memory is made.  Raises UsageError for what is neither True nor False.

    `offset`: in the source; `whole`: it shows all of it.  `working_set`: as the user says it.
    `track`: its writes can be tracked while it is filled.
    """

    memory: Memory
    writable: bool
    fork: bool
    grow_pool: bool
    prepared: bool
    user_mode_only: bool | None
    offset: int = 0
    whole: bool = True
    working_set: str | None = None
    track: bool = False

    def __post_init__(self) -> None:
        put = functools.partial(msgspec.structs.force_setattr, self)
        for name in ("writable", "fork", "grow_pool", "prepared", "track"):
            put(name, flag(name, getattr(self, name)))
        if self.user_mode_only is not None:
            put("user_mode_only", flag("user_mode_only", self.user_mode_only))


class Stored(msgspec.Struct, frozen=True):
    """Options of sources that are snapshots: see `lazy()`."""

    second: str | None
    cache: str | None
    cache_size: int | None

    @classmethod
    def of(cls, second: Any, cache: Any, cache_size: Any) -> Stored:
        """From the arguments of `lazy()`.  Raises UsageError for a size that is no number."""
        return cls(
            None if second is None else os.fsdecode(second),
            None if cache is None else os.fsdecode(cache),
            None if cache_size is None else whole("cache_size", cache_size),
        )


def part_of(length: Any, offset: Any) -> tuple[int | None, int]:
    """`length` and `offset` of `lazy()`.  Raises UsageError for what is no number."""
    return None if length is None else whole("length", length), whole("offset", offset)
