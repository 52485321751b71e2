"""Random programs as values and as text: `0 map anon; 0 register u0 anon+0 8p 1; 1 load anon+2`.

A step is who, a verb and its arguments.  Who is a task: `1`, or `c1.0` in the first child.  An
argument is a number, a number of pages (`3p`, `3p+512`: of the area that the step is about), an
address (`anon+2` is its third page, `anon+2+512` 512 bytes into it) or a name.
"""

from __future__ import annotations

import re
from typing import TypeAlias

import msgspec

from userfault.check.differential.areas import AREAS, Area
from userfault.kernel.errors import UsageError


class Spot(msgspec.Struct, frozen=True):
    """An address: a page of an area, and bytes beyond its start."""

    area: str
    page: int = 0
    extra: int = 0

    @property
    def of(self) -> Area:
        return AREAS[self.area]

    @property
    def address(self) -> int:
        return self.of.address + self.page * self.of.page + self.extra

    def __str__(self) -> str:
        return f"{self.area}+{self.page}" + (f"+{self.extra}" if self.extra else "")


class Pages(msgspec.Struct, frozen=True):
    """A length: pages of the step's area, and bytes."""

    count: int
    extra: int = 0

    def __str__(self) -> str:
        return f"{self.count}p" + (f"+{self.extra}" if self.extra else "")


Argument: TypeAlias = int | str | Spot | Pages


class Step(msgspec.Struct, frozen=True):
    """One step.  `process` 0 is the first one, n its n-th child."""

    process: int
    task: int
    verb: str
    args: tuple[Argument, ...] = ()

    def __str__(self) -> str:
        who = f"c{self.process}.{self.task}" if self.process else str(self.task)
        return " ".join((who, self.verb, *map(_show, self.args)))

    @property
    def spot(self) -> Spot | None:
        """The first address: what the step is about."""
        return next((value for value in self.args if isinstance(value, Spot)), None)


Program: TypeAlias = tuple[Step, ...]


def to_text(program: Program) -> str:
    """The program on one line."""
    return "; ".join(map(str, program))


def from_text(text: str) -> Program:
    """The program of `to_text`.  Raises UsageError."""
    return tuple(_step(line.strip()) for line in text.split(";") if line.strip())


def areas_of(program: Program) -> list[Area]:
    """Every area that a program names, in the order of addresses."""
    names = {value.area for step in program for value in step.args if isinstance(value, Spot)}
    names |= {str(step.args[0]) for step in program if step.verb == "map"}
    known = [AREAS[name] for name in names if name in AREAS]
    found = [area for area in known if area.memory != "nowhere"]
    return sorted(found, key=lambda area: area.address)


_WHO = re.compile(r"(?:c(\d+)\.)?(\d+)")
_SPOT = re.compile(r"([a-z]+)\+(\d+)(?:\+(\d+))?")
_PAGES = re.compile(r"(\d+)p(?:\+(\d+))?")
_NUMBER = re.compile(r"-?(?:0x[0-9a-f]+|\d+)")


def _show(value: Argument) -> str:
    return hex(value) if isinstance(value, int) and value > 0xFF else str(value)


def _step(line: str) -> Step:
    who, *words = line.split()
    found = _WHO.fullmatch(who)
    if found is None or not words:
        raise _bad(line)
    verb, *rest = words
    return Step(int(found[1] or 0), int(found[2]), verb, tuple(argument(word) for word in rest))


def argument(word: str) -> Argument:
    """One argument of a step.  Raises UsageError."""
    if found := _SPOT.fullmatch(word):
        if found[1] not in AREAS:
            raise _bad(word)
        return Spot(found[1], int(found[2]), int(found[3] or 0))
    if found := _PAGES.fullmatch(word):
        return Pages(int(found[1]), int(found[2] or 0))
    if _NUMBER.fullmatch(word):
        return int(word, 0)
    return word


def _bad(what: str) -> UsageError:
    return UsageError(
        f"not a step of a program: {what!r}",
        cause="a step is a task, a verb and arguments, as `0 register u0 anon+0 8p 1`",
        cure=f"areas are {', '.join(AREAS)}",
    )
