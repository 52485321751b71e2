"""The last few of what takes long to make, for those who open the same snapshot again."""

from __future__ import annotations

import _thread
from collections import OrderedDict
from collections.abc import Hashable
from typing import Generic, TypeVar

Value = TypeVar("Value")


class Kept(Generic[Value]):
    """At most `most` values that never change, by what they are made of.  Thread-safe."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._held: OrderedDict[Hashable, Value] = OrderedDict()
        self._lock = _thread.allocate_lock()

    def get(self, key: Hashable) -> Value | None:
        """What was put there, unless it had to go."""
        with self._lock:
            found = self._held.get(key)
            if found is not None:
                self._held.move_to_end(key)
            return found

    def put(self, key: Hashable, value: Value) -> None:
        """Keep it, and forget the one not asked for longest."""
        with self._lock:
            self._held[key] = value
            self._held.move_to_end(key)
            if len(self._held) > self._most:
                self._held.popitem(last=False)
