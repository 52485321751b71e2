"""What one seed means: a mapping, how it is served, what its clients do, and the weather."""

from __future__ import annotations

import random

import msgspec

from userfault.check.explore.building.serving import Terms
from userfault.check.simulate.weather import Climate
from userfault.kernel.memtypes import BASE_PAGE as PAGE
from userfault.pager.core.policy import Policy

MEMORY = ("anon", "shmem")
_TOUCHES = ("read", "read", "write")
_CHANGES = {
    "drop": 6,
    "remove": 4,
    "punch": 4,
    "pwrite": 3,
    "munmap": 2,
    "mremap": 4,
    "fork": 3,
    "read": 4,
    "complete": 1,
    "give_up": 1,
    "exit": 1,
}
# What a run is mostly about: these calls are drawn so much more often.
_THEMES: dict[str, dict[str, int]] = {
    "everything": {},
    "drops": {"drop": 20, "remove": 15, "punch": 15},
    "moves": {"mremap": 30, "munmap": 10},
    "forks": {"fork": 30, "exit": 15, "give_up": 4},
    "giving up": {"give_up": 12, "fork": 6},
}
_OF_FILES = ("remove", "punch", "pwrite")
_WITH_SET, _WITH_BUDGET = 5, 6  # which seeds of eight
_UNTOLD = ("punch", "pwrite")  # what raises no event: a budget does not hold beside it


class Deed(msgspec.Struct, frozen=True):
    """One call, `after` seconds: the numbers choose among what is there at that moment."""

    name: str
    a: int
    b: int
    after: float = 0.0


class Case(msgspec.Struct, frozen=True):
    """One run.  `touching`: what each of the main process's touching tasks does; `changing`: what
    its changing task does; `child`: what each child does.  `kills`: after how many looks of the
    killer each worker is killed."""

    memory: str
    pages: int
    terms: Terms
    climate: Climate
    touching: list[list[Deed]]
    changing: list[Deed]
    child: list[Deed]
    kills: list[int]


def drawn(seed: int, memory: str = "") -> Case:
    """The case of a seed: some have a working set, or a residency budget."""
    case = _drawn(seed, memory)
    dice = random.Random(~seed)
    if seed % 8 == _WITH_SET:
        return _with_set(dice, case)
    if seed % 8 == _WITH_BUDGET and memory != "anon":
        return _with_budget(dice, case)
    return case


def _with_set(dice: random.Random, case: Case) -> Case:
    """A course of groups, whose runs may lie over each other: it is somebody else's."""

    def run() -> tuple[int, int]:
        first = dice.randrange(case.pages)
        return first, dice.randint(1, case.pages - first)

    groups = [[run() for _ in range(dice.randint(1, 4))] for _ in range(dice.randint(1, 3))]
    course = tuple(tuple(group) for group in groups)
    terms = msgspec.structs.replace(case.terms, course=course)
    return msgspec.structs.replace(case, terms=terms)


def _with_budget(dice: random.Random, case: Case) -> Case:
    """Two to four pages may be in, and more are touched.  Two threads at most touch them: with as
    many that wait as pages that may be in, each could be taken out for another one for ever."""
    pages, may = dice.randint(4, 8), dice.randint(2, 4)
    policy = msgspec.structs.replace(case.terms.policy, resident_bytes=may * PAGE)
    terms = msgspec.structs.replace(
        case.terms,
        policy=policy,
        origin=dice.choice(("file", "file", "function")),
        prepared=False,
        evicts=True,
        spills=dice.random() < 0.5,
    )
    case = msgspec.structs.replace(
        case,
        memory="shmem",
        pages=pages,
        terms=terms,
        touching=[_touches(dice) + _touches(dice) for _ in range(dice.randint(1, 2))],
        changing=[deed for deed in case.changing if deed.name not in _UNTOLD],
        child=[deed for deed in case.child if deed.name not in _UNTOLD],
    )
    return _with_set(dice, case) if dice.random() < 0.3 else case


def _drawn(seed: int, memory: str) -> Case:
    dice = random.Random(seed)
    kind = dice.choice(MEMORY)
    kind = memory or kind
    theme = dice.choice(sorted(_THEMES))
    pages = dice.randint(1, 5)
    kills = [dice.choice((0, 5, 20, 60, 200)) for _ in range(dice.choice((0, 0, 1, 1, 2, 4)))]
    touching = [_touches(dice) for _ in range(dice.randint(1, 3))]
    return Case(
        memory=kind,
        pages=pages,
        terms=_terms(dice, kind, mortal=bool(kills)),
        climate=_climate(dice, sluggish=theme != "drops" and dice.random() < 0.5),
        touching=touching,
        changing=_changes(dice, kind, theme, dice.randint(0, 6)),
        child=_changes(dice, kind, theme, dice.randint(1, 4)),
        kills=kills,
    )


def _terms(dice: random.Random, kind: str, *, mortal: bool) -> Terms:
    policy = Policy(
        background=dice.random() < 0.4,
        window_bytes=dice.choice((1, 2, 4)) * PAGE,
        chunk_bytes=dice.choice((1, 3)) * PAGE,
        retries=dice.randint(0, 2),
        deadline_s=1.0,
        fetches=dice.randint(1, 3),
        fault_deadline_s=dice.choice((None, 0.05, 2.0)),
    )
    prepared = kind == "shmem" and dice.random() < 0.2
    origin = dice.choice(("file", "file", "function", "zero"))
    return Terms(
        policy=policy,
        origin="file" if prepared else origin,
        prepared=prepared,
        readers=2,
        mortal=mortal,
        timed=True,
    )


def _climate(dice: random.Random, *, sluggish: bool) -> Climate:
    """`sluggish`: most reads take their time, so that threads wait while things change."""

    def share(most: float) -> float:
        return most * dice.random() if dice.random() < 0.5 else 0.0

    return Climate(
        again=share(0.3),
        partly=share(0.5),
        poor=share(0.3),
        away=0.9 if sluggish else share(0.8),
        failing=share(0.4),
        short=share(0.2),
        late=share(0.2),
        slow=0.9 if sluggish else share(0.5),
        early=dice.random(),
    )


def _touches(dice: random.Random) -> list[Deed]:
    return [_deed(dice, dice.choice(_TOUCHES)) for _ in range(dice.randint(1, 6))]


def _changes(dice: random.Random, kind: str, theme: str, count: int) -> list[Deed]:
    often = _CHANGES | _THEMES[theme]
    names = [name for name in often if kind != "anon" or name not in _OF_FILES]
    weights = [often[name] for name in names]
    return [_deed(dice, name) for name in dice.choices(names, weights, k=count)]


def _deed(dice: random.Random, name: str) -> Deed:
    after = 0.0 if dice.random() < 0.6 else dice.random() * 0.1  # a slow read takes as long
    return Deed(name, dice.randrange(64), dice.randrange(64), after)
