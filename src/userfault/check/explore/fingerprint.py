"""The whole state of a world in a form in which equal states are equal.

The kernel's state, and where every task stands in its code with which local variables: two worlds
with one fingerprint go on alike.  It knows nothing of places and accesses, so that it can judge
them (`audit.py`).
"""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Iterator, Mapping
from types import FrameType
from typing import TYPE_CHECKING, Any

from sortedcontainers import SortedDict

from userfault.model.files.folio import Folio, Object
from userfault.model.files.open_files import OpenFile
from userfault.model.memtypes.ops import MemoryOps
from userfault.model.mm.address_space import AddressSpace
from userfault.model.mm.vma import Vma
from userfault.model.process import Process
from userfault.model.tasks.locks import RWLock
from userfault.model.tasks.sched import Sched, Task
from userfault.model.uffd.context import Context

if TYPE_CHECKING:
    from userfault.check.explore.building.world import World

# What says nothing of the state: caches, the processor, what no step changes.
_SKIPPED = {
    *("_last", "sched", "_sched", "machine", "_machine", "profile", "config", "processes"),
    *("spaces", "files", "_files", "userfaultfd", "_families", "next_family", "_fiber", "progress"),
    *("_body", "mistake"),
}
_ATOMS = (int, str, bytes, bool, float, type(None))
_NAMED = (Folio, Object, OpenFile, AddressSpace, Process, Task, RWLock, Context)


class _Walk:
    """One walk: things with an identity are described once, and named elsewhere."""

    def __init__(self) -> None:
        self.things: dict[str, Any] = {}
        self._families: dict[int, int] = {0: 0}
        self._open: set[int] = set()

    def of(self, value: Any) -> Any:
        """The value, or the name of the thing."""
        if isinstance(value, _ATOMS):
            return value
        if isinstance(value, _NAMED):
            return self._thing(value)
        if isinstance(value, (dict, SortedDict)):
            return self._dict(value)
        if isinstance(value, (list, tuple, deque, set, frozenset)):
            parts = [self.of(part) for part in value]
            return sorted(parts, key=repr) if isinstance(value, (set, frozenset)) else parts
        if isinstance(value, (Sched, MemoryOps)) or callable(value):
            return getattr(value, "__qualname__", type(value).__name__)
        return self._plain(value)

    def _dict(self, value: Mapping[Any, Any]) -> Any:
        pairs = [(self.of(key), self.of(part)) for key, part in value.items()]
        return sorted(pairs, key=repr)

    def _thing(self, value: Any) -> str:
        kind = type(value).__name__
        number = getattr(value, "number", None)
        if isinstance(value, Task):
            number = value.tid
        elif isinstance(value, Process):
            number = value.pid
        name = f"{kind} {number}"
        if name not in self.things:
            self.things[name] = None
            self.things[name] = self._fields(value)
        return name

    def _plain(self, value: Any) -> Any:
        if id(value) in self._open:
            return "..."
        self._open.add(id(value))
        try:
            return [type(value).__name__, self._fields(value)]
        finally:
            self._open.discard(id(value))

    def _fields(self, value: Any) -> Any:
        names = getattr(value, "__dict__", None)
        fields = dict(names) if names is not None else {}
        for cls in type(value).__mro__:
            slots = getattr(cls, "__slots__", ())
            for slot in (slots,) if isinstance(slots, str) else slots:
                if hasattr(value, slot):
                    fields[slot] = getattr(value, slot)
        if isinstance(value, Vma):
            fields["family"] = self._families.setdefault(value.family, len(self._families))
        if isinstance(value, RWLock):
            fields["_queue"] = _neighbours_sorted(value._queue)
        return [
            (name, self.of(part)) for name, part in sorted(fields.items()) if name not in _SKIPPED
        ]


def _neighbours_sorted(queue: deque[tuple[bool, Task]]) -> list[tuple[bool, int]]:
    """Readers that queue behind each other get the lock together: their order is nobody's."""
    found: list[tuple[bool, int]] = []
    readers: list[tuple[bool, int]] = []
    for write, task in queue:
        if write:
            found += [*sorted(readers), (write, task.tid)]
            readers = []
        else:
            readers.append((write, task.tid))
    return found + sorted(readers)


def _frames(task: Task) -> Iterator[FrameType]:
    """Where a task stands, innermost first: its calls in the kernel and in its scenario."""
    frame = task.stack
    if frame is None and task.sched.current is task:
        frame = sys._getframe()
    while frame is not None:
        module = frame.f_globals.get("__name__", "")
        code = frame.f_code
        ours = module.startswith("userfault.check.explore") and "scenarios" not in module
        if not ours and not (module.endswith("tasks.sched") and code.co_name == "point"):
            yield frame
        frame = frame.f_back


def fingerprint(world: World) -> str:
    """Equal for two worlds of one scenario if and only if they are in the same state."""
    walk = _Walk()
    machine = world.machine
    parts: list[Any] = [walk.of(vars(machine))]
    for number, caller in sorted(world.callers.items()):
        task = caller.task
        state = "ended" if caller.ended else "sleeps" if task.waits is not None else "ready"
        stack: list[Any] = []
        if not caller.ended:
            for frame in _frames(task):
                known = {
                    name: part for name, part in frame.f_locals.items() if name not in _SKIPPED
                }
                stack.append((frame.f_code.co_qualname, frame.f_lasti, walk.of(known)))
        value = walk.of(caller.value) if caller.ended else None
        parts.append((number, state, value, stack))
    parts.append(sorted(walk.things.items()))
    return repr(parts)
