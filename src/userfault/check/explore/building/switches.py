"""Old bugs of Linux that can be put back, each by its name.

The model asks `if "name" in machine.bugs` where the kernel had the bug; here is what it was.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from userfault.kernel.errors import UsageError


class Switch(msgspec.Struct, frozen=True):
    """One bug: what went wrong, and the commit that ended it.

    `found_by`: the scenario that finds it, within so many `schedules`, on `kernel`.
    """

    name: str
    sentence: str
    commit: str
    subject: str
    found_by: str
    schedules: int
    kernel: str


SWITCHES: dict[str, Switch] = {}


def bugs_named(names: Iterable[str]) -> frozenset[str]:
    """The names, once each is known.  Raises UsageError."""
    found = frozenset(names)
    for name in sorted(found - SWITCHES.keys()):
        raise UsageError(
            f"no old bug is called {name!r}",
            cause=f"those that can be put back are {', '.join(SWITCHES) or 'none'}",
            cure="`userfault explore --list` tells what each is",
        )
    return found
