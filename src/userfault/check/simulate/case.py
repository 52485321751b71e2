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
    """The case of a seed."""
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
