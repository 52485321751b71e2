"""How the mappings of a program are served, as values."""

from __future__ import annotations

import msgspec

from userfault.kernel.modes import Feature
from userfault.pager.core.policy import Policy

MOST = 64  # files; `preload.c` has as many places


class Stored(msgspec.Struct, frozen=True):
    """Options for snapshots, as `lazy()` has them."""

    second: str | None = None
    cache: str | None = None
    cache_size: int | None = None


class Settings(msgspec.Struct, frozen=True):
    """How mappings are served.  `offered`: by this kernel.  `user_mode_only`: is enough.
    `working_set`: a file, for the one file that is shown; None: a snapshot's own, "": none."""

    policy: Policy
    offered: Feature
    user_mode_only: bool = False
    working_set: str | None = None
    stored: Stored = Stored()
