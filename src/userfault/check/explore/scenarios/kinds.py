"""One scenario for each memory type that it makes sense for."""

from __future__ import annotations

from collections.abc import Callable

from userfault.check.explore.building.scenario import scenario
from userfault.check.explore.building.world import Area, World

OfKind = Callable[[World, str], None]

ANON, SHMEM, HUGETLB, GUEST = "anon", "shmem", "hugetlb", "guest_memfd"
PRIVATE = "private"  # a private mapping of a shmem file

SMALL = (ANON, SHMEM)
FILES = (SHMEM, HUGETLB, GUEST)
ALL = (ANON, SHMEM, PRIVATE, HUGETLB, GUEST)

WITH_RWP = ("7.3", "next")
WITH_TABLE = ("7.2", "7.3", "next")
WITH_ASYNC = ("6.12", "6.17", "6.18", *WITH_TABLE)
WITH_GUESTS = ("next",)  # guest_memfd behind the table

_SAID = {
    ANON: "anonymous memory",
    SHMEM: "shared memory",
    PRIVATE: "a private mapping of a file",
    HUGETLB: "huge pages",
    GUEST: "guest memory",
}


def of_each(*kinds: str, group: str, kernels: tuple[str, ...] = ()) -> Callable[[OfKind], OfKind]:
    """Decorate what builds a scenario of a memory type: `name-TYPE` for each of them."""

    def add(build: OfKind) -> OfKind:
        for kind in kinds:
            _add(build, kind, group, kernels)
        return build

    return add


def _add(build: OfKind, kind: str, group: str, kernels: tuple[str, ...]) -> None:
    def built(world: World) -> None:
        build(world, kind)

    sentence = " ".join((build.__doc__ or "").split())
    built.__doc__ = f"{_SAID[kind].capitalize()}: {sentence[0].lower()}{sentence[1:]}"
    name = build.__name__.replace("_", "-")
    where = WITH_GUESTS if kind == GUEST else kernels
    scenario(name=f"{name}-{kind.replace('_', '-')}", group=group, kernels=where)(built)


def mapped(world: World, kind: str, pages: int = 1) -> Area:
    """A mapping of that type."""
    if kind == PRIVATE:
        return world.map(SHMEM, pages, shared=False)
    return world.map(kind, pages)
