"""Statements: one sentence that a kernel keeps, and the function that makes it show.

The guide to writing one, with an example, is at the top of `statements/__init__.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import msgspec

from userfault.check.words.thread import Thread
from userfault.kernel.calls import UNRELEASED
from userfault.kernel.errors import UsageError
from userfault.kernel.memtypes import memory

Body = TypeVar("Body", bound=Callable[..., None])


class Statement(msgspec.Struct, frozen=True):
    """One statement.

    `number`: for ever the same.  `subject`: the file or the folder of `statements/` that it is in.
    `promise`: one sentence.  `since`: the first release that keeps it, or the lowest one it was
    seen on; older kernels cannot run it.  `memories`: names that `kernel.memtypes.memory` takes; it
    runs once on each.  `outcomes`: where releases differ, what each does.  `source`: where the fact
    comes from.
    """

    number: int
    subject: str
    promise: str
    since: tuple[int, int]
    source: str
    memories: tuple[str, ...]
    outcomes: dict[str, str]
    body: Callable[..., None]

    @property
    def first_release(self) -> str:
        """`since` as one says it: "6.18", or "next" of what no kernel has yet."""
        return "next" if self.since == UNRELEASED else ".".join(map(str, self.since))

    @property
    def name(self) -> str:
        """The function's name, with spaces."""
        return self.body.__name__.replace("_", " ")

    def outcome_on(self, release: tuple[int, ...]) -> str:
        """Which of its `outcomes` holds on a release (major, minor); "" where they do not say."""
        for when in self.outcomes:
            word, _, number = when.rpartition(" ")
            try:
                named = tuple(map(int, number.split(".")))
            except ValueError:  # not of a release
                continue
            if {"up to": release <= named, "since": release >= named}.get(word, release == named):
                return when
        return ""

    def run(self, thread: Thread, memory_name: str = "") -> None:
        """Run it; raises Failed, CannotRun or Lost."""
        if memory_name:
            self.body(thread, memory(memory_name))
        else:
            self.body(thread)


REGISTRY: dict[int, Statement] = {}

ANON = ("anon",)
SHMEM = ("shmem", "shmem-private")
HUGETLB = ("hugetlb", "hugetlb-private")
SHARED = ("shmem", "hugetlb")
FILES = (*SHMEM, *HUGETLB)
ALL = (*ANON, *FILES)


def statement(
    number: int,
    promise: str,
    *,
    since: str,
    source: str,
    memories: tuple[str, ...] = (),
    outcomes: dict[str, str] | None = None,
) -> Callable[[Body], Body]:
    """Register a function as a statement; the function stays what it is."""

    def register(body: Body) -> Body:
        if number in REGISTRY:
            raise UsageError(
                f"statement {number} is defined twice",
                cause=f"by {REGISTRY[number].body.__qualname__} and {body.__qualname__}",
                cure="numbers are for ever: give the new one the next free number",
            )
        major, minor = UNRELEASED if since == "next" else since.split(".")
        REGISTRY[number] = Statement(
            number=number,
            subject=_subject(body.__module__),
            promise=promise,
            since=(int(major), int(minor)),
            source=source,
            memories=memories,
            outcomes=outcomes or {},
            body=body,
        )
        return body

    return register


def _subject(module: str) -> str:
    """Of a module: its name, or that of its folder in `statements/`."""
    path = module.split(".")
    below = path.index("statements") + 1 if "statements" in path[:-1] else -1
    return path[below].rstrip("_")  # `continue` is a keyword


def to_json(found: Statement) -> dict[str, Any]:
    """What there is to say about a statement, as plain values."""
    return {
        "number": found.number,
        "subject": found.subject,
        "name": found.name,
        "promise": found.promise,
        "since": found.first_release,
        "source": found.source,
        "memories": list(found.memories),
        "outcomes": found.outcomes,
    }
