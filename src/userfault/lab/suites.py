"""The suites of Debian that the lab takes kernels from: the newest of each, or of a series."""

from __future__ import annotations

import msgspec

from userfault.kernel.errors import UsageError


class Suite(msgspec.Struct, frozen=True):
    """`name` as a user writes it; `parts`: the suites of the archive that it is made of.

    `preferred`: the part whose packages are taken whatever the others have.  `series`: the newest
    of these releases is taken, not of all; an archive keeps such for a while, or not at all.
    """

    name: str
    parts: tuple[str, ...]
    kernels: str  # which releases, for the list
    preferred: str = ""
    series: str = ""


SUITES = {
    suite.name: suite
    for suite in (
        Suite("bookworm", ("bookworm", "bookworm-security"), "6.1"),
        Suite("trixie", ("trixie", "trixie-security"), "6.12"),
        Suite("sid", ("sid",), "7.2 at the time of writing"),
        Suite(
            "trixie-backports",
            ("trixie-backports", "trixie"),
            "7.3 at the time of writing",
            "trixie-backports",
        ),
        Suite(
            "6.17",
            ("trixie-backports", "trixie"),
            "6.17, while trixie-backports still has it",
            "trixie-backports",
            series="6.17",
        ),
    )
}
_ALIASES = {"unstable": "sid"}


def suite(name: str) -> Suite:
    """The suite of this name.  Raises UsageError."""
    found = SUITES.get(_ALIASES.get(name, name))
    if found is None:
        raise UsageError(f"the lab knows no suite {name!r}", cure=f"use one of {', '.join(SUITES)}")
    return found
