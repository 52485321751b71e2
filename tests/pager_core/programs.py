"""Programs that drive client and pager step by step.

A program is a list of steps (name, a, b); the numbers choose among what is there at that moment,
so that every program means something and a shorter one still does.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from pager_core.simjudge import check, finale
from pager_core.simparts import KINDS
from pager_core.simstate import Config
from pager_core.simworld import World


class Step(NamedTuple):
    """One step of a program."""

    name: str
    a: int = 0
    b: int = 0


Action = Callable[[World, int, int], object]


def _touch(world: World, a: int, b: int, *, write: bool = False) -> None:
    idle = world.threads("idle")
    if idle:
        thread = idle[a % len(idle)]
        vpns = sorted(thread.mm.slots) or [world.kernel.start]
        world.kernel.touch(thread, vpns[b % len(vpns)], write=write)


def _write(world: World, a: int, b: int) -> None:
    _touch(world, a, b, write=True)


def _run(world: World, a: int, _b: int) -> None:
    woken = world.threads("woken")
    if woken:
        world.kernel.run(woken[a % len(woken)])


def _signal(world: World, a: int, _b: int) -> None:
    waiting = world.threads("waiting")
    if waiting:
        world.kernel.signal(waiting[a % len(waiting)])


def _resume(world: World, a: int, _b: int) -> None:
    ready = world.ready()
    if ready:
        world.kernel.calls.resume(ready[a % len(ready)])


def _dontneed(world: World, a: int, b: int) -> None:
    if found := world.place(a, b):
        mm, vpn, extra = found
        world.kernel.calls.dontneed(mm, vpn, 1 + extra % 4)


def _remove(world: World, a: int, b: int) -> None:
    if world.config.kind.shared and (found := world.place(a, b)):
        mm, vpn, extra = found
        world.kernel.calls.remove(mm, vpn, 1 + extra % 4)


def _punch(world: World, a: int, _b: int) -> None:
    if world.config.kind.shared:
        world.kernel.calls.punch(a % world.config.pages)


def _alias(world: World, a: int, _b: int) -> None:
    if world.config.kind.shared:
        world.kernel.calls.alias(a % (world.config.pages + 1))


def _truncate(world: World, a: int, _b: int) -> None:
    if world.config.kind.shared and not world.config.kind.ambiguous:
        world.kernel.calls.resize(a % (world.config.pages + 4))


def _extend(world: World, _a: int, _b: int) -> None:
    if world.config.kind.shared:
        world.kernel.calls.resize(max(world.kernel.file.size, world.config.pages + 4))


def _munmap(world: World, a: int, b: int) -> None:
    if found := world.place(a, b):
        mm, vpn, extra = found
        world.kernel.calls.munmap(mm, vpn, 1 + extra % 3)


def _mremap(world: World, a: int, b: int) -> None:
    if not (found := world.place(a, b % 16, alone=True)):
        return
    mm, vpn, extra = found
    how, count, kernel = b // 16, 1 + extra % 4, world.kernel
    private = not kernel.kind.shared
    if how == 0:
        kernel.calls.mremap(mm, vpn, count)
    elif how == 1:
        kernel.calls.mremap(mm, vpn, count, change=-1 if not private or extra % 2 else 2)
    elif how == 2 and private:
        kernel.calls.mremap(mm, vpn, count, keep=True)
    else:  # onto pages of its own
        kernel.calls.mremap(mm, vpn, count, new=sorted(mm.slots)[extra % len(mm.slots)])


def _grow(world: World, a: int, b: int) -> None:
    if found := world.place(a, b, alone=True):
        mm = found[0]
        if not world.kernel.kind.shared or mm.slots[max(mm.slots)].index >= world.config.pages - 1:
            world.kernel.calls.grow(mm, 1 + b % 2)


def _split(world: World, a: int, b: int) -> None:
    if found := world.place(a, b):
        world.kernel.memory.split(found[0], found[1])


def _fork(world: World, a: int, b: int) -> None:
    found = world.place(a, b)
    if found and len(world.kernel.mms) < 3:
        world.kernel.calls.fork(found[0])


def _exit(world: World, a: int, _b: int) -> None:
    alive = [mm for mm in world.kernel.mms if mm.alive and mm.threads]
    if len(alive) > 1:
        mm = alive[a % len(alive)]
        if not any(call.name == "fork" for call in mm.calls):
            world.kernel.calls.exit(mm)


def _drive(world: World, a: int, _b: int) -> None:
    for _ in range(1 + a % 4):
        world.step()


def _odd(world: World, a: int, b: int) -> None:
    world.step(("stop", "not ready", "unreadable", "stop")[a % 4], b)


def _limit(world: World, a: int, _b: int) -> None:
    world.limit = (1, 2, 3, 64)[a % 4]


def _tick(world: World, a: int, _b: int) -> None:
    world.state.now += (0.02, 0.2, 1.5, 3.0)[a % 4]
    world.tick()


def _poor(world: World, a: int, _b: int) -> None:
    world.kernel.uffd.poor = (0, 2, 30, 200, 200)[a % 5]


def _want(world: World, a: int, b: int) -> None:
    page = a % world.config.pages
    if world.state.main:
        world.state.main.core.want(page, min(1 + b % 5, world.config.pages - page))


def _give_up(world: World, _a: int, b: int) -> None:
    world.drained()
    if not b % 4:
        world.give_up()


def _kill(world: World, a: int, b: int) -> None:
    """Kill the worker, now or soon; perhaps its successor soon after, when it has just begun."""
    fuse = world.store.fuse
    if a % 4 == 0:
        world.die()
    elif a % 4 == 1:
        fuse.filled = 1 + a // 4 % 3
    else:
        fuse.lengths.append(a // 4)
    if b % 2:
        fuse.lengths.append(b // 4)


STEPS: dict[str, Action] = {
    "touch": _touch,
    "write": _write,
    "run": _run,
    "signal": _signal,
    "resume": _resume,
    "dontneed": _dontneed,
    "remove": _remove,
    "punch": _punch,
    "alias": _alias,
    "truncate": _truncate,
    "extend": _extend,
    "munmap": _munmap,
    "mremap": _mremap,
    "grow": _grow,
    "split": _split,
    "fork": _fork,
    "exit": _exit,
    "reap": lambda world, _a, _b: world.reap(),
    "drive": _drive,
    "odd": _odd,
    "limit": _limit,
    "retry": lambda world, _a, _b: world.retry(),
    "tick": _tick,
    "idle": lambda world, _a, _b: world.idle(),
    "answer": lambda world, a, _b: world.answer(a),
    "fail": lambda world, a, _b: world.answer(a, works=False),
    "poor": _poor,
    "want": _want,
    "complete": lambda world, _a, _b: world.complete(),
    "give up": _give_up,
    "kill": _kill,
}

# How often a step is drawn.
WEIGHTS = {
    "touch": 12, "write": 4, "run": 8, "signal": 1, "resume": 8, "dontneed": 5, "remove": 3,
    "punch": 3, "alias": 3, "truncate": 1, "extend": 1, "munmap": 2, "mremap": 2, "grow": 1,
    "split": 1, "fork": 2, "exit": 1, "reap": 1, "drive": 16, "odd": 6, "limit": 1, "retry": 3,
    "tick": 3, "idle": 4, "answer": 8, "fail": 3, "poor": 2, "want": 1, "complete": 1, "give up": 1,
    "kill": 0,
}  # fmt: skip

# What a program is mostly about: these steps are drawn so much more often.
THEMES: dict[str, dict[str, int]] = {
    "everything": {},
    "drops": {"dontneed": 12, "remove": 12, "punch": 12, "alias": 8, "resume": 16, "munmap": 6},
    "forks": {
        "fork": 12,
        "exit": 5,
        "reap": 3,
        "munmap": 4,
        "mremap": 4,
        "touch": 20,
        "resume": 16,
    },
    "failures": {"fail": 12, "odd": 16, "tick": 12, "answer": 4, "give up": 3},
    "poverty": {"poor": 12, "tick": 90, "drive": 90, "touch": 20, "alias": 8, "answer": 20},
    "kills": {
        "kill": 12,
        "touch": 24,
        "drive": 30,
        "dontneed": 8,
        "punch": 8,
        "mremap": 6,
        "munmap": 5,
        "fork": 5,
        "resume": 16,
        "limit": 3,
    },
    "killed in fills": {
        "kill": 24,
        "punch": 50,
        "touch": 40,
        "odd": 20,
        "drive": 20,
        "fork": 12,
        "fail": 12,
        "tick": 8,
        "give up": 8,
        "resume": 12,
        "mremap": 0,
        "munmap": 0,
        "exit": 0,
        "truncate": 0,
        "poor": 0,
        "complete": 0,
    },
    "killed families": {
        "kill": 12,
        "fork": 16,
        "exit": 4,
        "reap": 2,
        "munmap": 5,
        "dontneed": 8,
        "touch": 24,
        "drive": 30,
        "resume": 20,
    },
}


def drawn(theme: str) -> list[str]:
    """The names of steps, each as often as its weight says."""
    weights = WEIGHTS | THEMES[theme]
    return [name for name, weight in weights.items() for _ in range(weight)]


def random_config(dice: random.Random) -> Config:
    """Any mapping with any policy."""
    kind = dice.choice(KINDS)
    pages = dice.randint(1, 10)
    prepared = kind.file and not kind.ambiguous and dice.random() < 0.3
    return Config(
        kind=kind,
        pages=pages,
        origin="file" if prepared else dice.choice(("file", "file", "function", "zero")),
        prepared=prepared,
        background=dice.random() < 0.6,
        retries=dice.randint(0, 2),
        window=dice.choice((1, 2, 4, 8)),
        chunk=dice.choice((1, 3, 5)),
        fetches=dice.randint(1, 3),
        has_poison=dice.random() < 0.9,
        on_failure="poison" if dice.random() < 0.9 else "kill",
        bad=frozenset(page for page in range(pages) if dice.random() < 0.05),
    )


def watched(config: Config, dice: random.Random) -> Config:
    """The same with a watchdog, or without one."""
    return config._replace(
        fault_deadline=dice.choice((None, 0.01, 0.5, 2.0)),
        on_overdue=dice.choice(("report", "poison", "poison", "kill")),
    )


def random_program(dice: random.Random, theme: str, length: int) -> list[Step]:
    """As many steps, in the proportions of the theme."""
    return [
        Step(name, dice.randrange(64), dice.randrange(64))
        for name in dice.choices(drawn(theme), k=length)
    ]


def random_case(seed: int, theme: str | None = None) -> tuple[Config, list[Step]]:
    """A mapping and a program: the same for the same seed."""
    dice = random.Random(seed)
    config = watched(random_config(dice), random.Random(-seed - 1))
    return config, random_program(
        dice, theme or dice.choice(list(THEMES)), dice.choice((15, 40, 80))
    )


def run(world: World, program: Sequence[Step]) -> None:
    """Perform the steps, then the finale; raises Violation."""
    for step in program:
        if world.state.over:
            return
        STEPS[step.name](world, step.a, step.b)
        check(world)
    finale(world)


def minimal(config: Config, program: Sequence[Step], world: type[World] = World) -> list[Step]:
    """The program without the steps that its failure does not need."""
    steps = list(program)
    what = _sort(failure(config, steps, world))
    size = len(steps)
    while size:
        size, again = max(size // 2, 1), False
        for at in _downwards(len(steps), size):
            shorter = steps[:at] + steps[at + size :]
            if _sort(failure(config, shorter, world)) == what:
                steps, again = shorter, True
        if size == 1 and not again:
            break
    return steps


def _sort(text: str) -> str:
    """What two failures of one cause have in common."""
    return re.sub(r"[0-9]+", "", text)[:24]


def _downwards(length: int, size: int) -> Iterator[int]:
    return iter(range(max(length - size, 0), -1, -size))


def failure(config: Config, program: Sequence[Step], world: type[World] = World) -> str:
    """What goes wrong in a program; empty when all is well."""
    try:
        run(world(config), program)
    except (AssertionError, IndexError, KeyError, ValueError) as wrong:
        return f"{type(wrong).__name__}: {wrong}"
    return ""
