"""Two models in place of a kernel and its model: of two releases, or one whose rules are walked."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import msgspec

from userfault.check.differential.coverage import Coverage
from userfault.check.differential.pair import ModelFactory, Pair
from userfault.check.differential.program import Program
from userfault.check.differential.side import Common
from userfault.check.run import KernelFactory
from userfault.model.designs.catalogue import design_named
from userfault.model.faces.calls import ModelCalls
from userfault.model.profiles import Config, Profile, profile_named

# What says which release it is, and nothing about what it does; or is masked (`Common`).
_NAMES = frozenset({"name", "release", "says_guest_memfd"})


class Twins:
    """The models of two profiles.  The first walks its rules whenever it settles.

    `against` empty: the same profile twice, so that programs run on the model alone.  `design`:
    how the cores of both ask memory types.  Raises UsageError for a profile or a design that there
    is not.
    """

    def __init__(self, model: str, against: str = "", design: str = "") -> None:
        self.first = profile_named(model)
        self.second = profile_named(against or model)
        self.alone = not against
        self.design = design
        self._config = Config(design=design_named(design).name) if design else Config()
        self.common = Common(
            self.first.features & self.second.features,
            self.first.api_ioctls & self.second.api_ioctls,
            self.first.range_ioctls & self.second.range_ioctls,
        )

    @property
    def rwp(self) -> bool:
        """Whether both have RWP: else its steps would tell nothing but that."""
        return self.first.rwp and self.second.rwp

    @property
    def titles(self) -> tuple[str, str]:
        """What each is called in traces."""
        if self.alone:
            return f"model {self.first.name}, its rules walked", f"model {self.first.name}"
        return f"model {self.first.name}", f"model {self.second.name}"

    @property
    def options(self) -> str:
        """What `check --program` takes to see it again."""
        against = "" if self.alone else f" --against {self.second.name}"
        design = f" --design {self.design}" if self.design else ""
        return f" --model {self.first.name}{against}{design}"

    def factories(self) -> tuple[KernelFactory, ModelFactory]:
        """Of the one that leads, and of the one that has to answer the same."""
        return self._factories(self.second)

    def _factories(self, second: Profile) -> tuple[KernelFactory, ModelFactory]:
        first, config = self.first, self._config
        return (
            lambda: ModelCalls(first, config, checking=True),
            lambda scheduler: ModelCalls(second, config, scheduler=scheduler),
        )

    def because(self, program: Program, kind: str) -> tuple[str, ...]:
        """What of the profiles makes the difference: each line a field, and what it is on each.

        A field is one if the second model with the first one's value does not differ so any more.
        Empty where several together are.
        """
        return tuple(
            f"{field}: {_told(ours)} on {self.first.name}, {_told(theirs)} on {self.second.name}"
            for field, ours, theirs in self._different()
            if not self._differs(program, kind, field, ours)
        )

    def _different(self) -> Iterator[tuple[str, object, object]]:
        first, second = msgspec.structs.asdict(self.first), msgspec.structs.asdict(self.second)
        for field, ours in first.items():
            if field not in _NAMES and ours != second[field]:
                yield field, ours, second[field]

    def _differs(self, program: Program, kind: str, field: str, value: object) -> bool:
        mended = msgspec.structs.replace(self.second, **{field: value})
        live, model = self._factories(mended)
        with contextlib.closing(Pair(live(), model, Coverage(), common=self.common)) as pair:
            found = pair.run(program)
        return found is not None and found.kind == kind


def _told(value: object) -> str:
    if isinstance(value, int) and not isinstance(value, bool) and value > 0xFF:
        return hex(value)
    return str(value)
