"""A task of a scenario: what it does, the calls that it can make, and what became of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from userfault.check.explore.building.calls import Descriptor, named
from userfault.check.explore.building.calls_guest import GuestCalls
from userfault.check.explore.building.calls_memory import MemoryCalls
from userfault.check.explore.building.calls_uffd import UffdCalls
from userfault.model.errors import Errno, Killed, Signalled
from userfault.model.process import Process, Thread

Body = Callable[["Caller"], object]
Adopt = Callable[["Caller", Process, Body], "Caller"]  # makes the task of a child


def shown(value: object) -> str:
    """A value in an outcome."""
    if isinstance(value, bytes):
        value = value.rstrip(b"\0")
        return repr(value if len(value) <= 16 else value[:16] + b"...")
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(shown(part) for part in value) + "]"
    return value if isinstance(value, str) else repr(value)


class Caller(UffdCalls, MemoryCalls, GuestCalls):
    """A task: `body` runs in it and calls these methods."""

    def __init__(
        self, adopt: Adopt, task: Thread, number: int, name: str, body: Body, *, may_wait: bool
    ) -> None:
        self._adopt = adopt
        super().__init__(task)
        self.number = number
        self.name = name
        self.may_wait = may_wait
        self.children = 0
        self._body = body
        self.ended = False
        self.value: Any = None
        self.mistake: BaseException | None = None  # what its body raised

    def begin(self) -> None:
        """Give it its work; it runs when the machine does."""
        self.task.submit(self._run)

    def _run(self) -> None:
        try:
            self.value = self._body(self)
        except (Errno, Signalled) as outcome:
            self.value = named(outcome)
        except Killed:
            self.value = "killed"
        except Exception as mistake:
            self.mistake = mistake
        self.ended = True

    @property
    def result(self) -> str:
        """What its body returned, or what it waits for."""
        if self.ended:
            return shown(self.value)
        waits = self.task.waits
        return "killed" if waits is None else f"waits ({waits.kind})"

    # --- processes -------------------------------------------------------------------------------

    def fork(self, body: Body) -> Any:
        """fork(2): the child's pid; `body` is what the child does."""

        def call() -> int:
            child = self.task.process.fork(self.task)
            self._adopt(self, child, body)
            return child.pid

        return self._call(call)

    def exit(self, process: Process | None = None) -> Any:
        """The process ends, as by SIGKILL."""
        return self._do(lambda: (process or self.task.process).exit(0))

    def close(self, descriptor: Descriptor) -> Any:
        """close(2)."""
        return self._do(lambda: descriptor.process.close(descriptor.fd))
