"""A scenario: a name, a sentence, and a function that builds its world."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from userfault.check.explore.building.world import World
from userfault.kernel.errors import UsageError
from userfault.model.designs.catalogue import design_named
from userfault.model.errors import Errno
from userfault.model.memtypes.ops import MemoryOps
from userfault.model.profiles import NEXT, Config, Profile

Build = Callable[[World], None]


class Scenario(msgspec.Struct, frozen=True):
    """What is explored.

    `build` makes memory, userfaultfds and tasks; it runs before every schedule, so it should be
    quick.  What tasks share they share through the kernel: a Python variable that one sets and
    another reads is out of the explorer's sight.
    """

    name: str
    sentence: str
    build: Build
    kernel: str = NEXT.name  # the profile that it runs on unless told otherwise
    kernels: tuple[str, ...] = ()  # where it makes sense; (): everywhere
    config: Config = Config()
    types: tuple[MemoryOps, ...] = ()  # memory types from outside
    group: str = ""  # what it is listed under

    def under(self, design: str) -> Scenario:
        """The same under this design of the model's core ("": under its own).

        Raises UsageError for a name that no design has.
        """
        if not design:
            return self
        named = design_named(design).name
        return msgspec.structs.replace(
            self, config=msgspec.structs.replace(self.config, design=named)
        )

    def refusal(self, profile: Profile) -> str:
        """Why its world cannot be set up, as a design may not serve its memory; "" where it can."""
        try:
            self.world(profile).abandon()
        except Errno as refused:
            return str(refused)
        return ""

    def world(self, profile: Profile, bugs: frozenset[str] = frozenset()) -> World:
        """A fresh world with its tasks ready to run.  `bugs`: old ones put back."""
        config = self.config
        if bugs:
            config = msgspec.structs.replace(config, bugs=bugs)
        world = World(profile, config, self.types)
        self.build(world)
        return world


class Scenarios:
    """Scenarios by name, in the order in which they were written."""

    def __init__(self) -> None:
        self.by_name: dict[str, Scenario] = {}

    def __call__(
        self,
        *,
        name: str = "",
        kernel: str = NEXT.name,
        kernels: tuple[str, ...] = (),
        config: Config | None = None,
        types: tuple[MemoryOps, ...] = (),
        group: str = "",
    ) -> Callable[[Build], Build]:
        """Decorate the function that builds one: its name and docstring are the scenario's."""

        def add(build: Build) -> Build:
            called = name or build.__name__.strip("_").replace("_", "-")
            if called in self.by_name:
                raise UsageError(f"two scenarios are called {called!r}")
            sentence = " ".join((build.__doc__ or "").split("\n\n")[0].split())
            self.by_name[called] = Scenario(
                called, sentence, build, kernel, kernels, config or Config(), types, group
            )
            return build

        return add


# Where `@scenario(...)` of this project's own files, and of a user's file, puts them.
scenario = Scenarios()
