"""Registering the memory of `lazy()`: nothing may be in it that the pager has not put there."""

from __future__ import annotations

from userfault.kernel.modes import Mode
from userfault.linux.empty import empty, not_empty, what_is_there
from userfault.linux.memory import Recipe
from userfault.linux.uffd import LiveUserfaultfd

_TRIES = 3  # somebody may fill it again before it is registered; afterwards nobody can


def register(
    uffd: LiveUserfaultfd, address: int, recipe: Recipe, *, prepared: bool, guarded: bool = False
) -> None:
    """Register it: MISSING, and MINOR too where a page can be cached and not mapped; with WP where
    it is `guarded`, so that a write to a page that nobody wrote can be made to ask first.

    From then on whoever touches an empty page waits for the pager; so the look at what is there
    comes last.  `prepared`: the file behind it holds the right bytes, and they stay; only what is
    mapped of it is unmapped.  Raises RegistrationRefused; MemoryUnavailable for memory that does
    not become empty.
    """
    memory = recipe.memory
    mode = Mode.MISSING | (Mode.MINOR if memory.minor_faults else Mode(0))
    mode |= Mode.WP if guarded else Mode(0)
    backing = None if prepared else recipe.backing
    for _ in range(_TRIES):
        uffd.register(address, recipe.length, mode, memory=memory)
        found = what_is_there(address, recipe.length, memory.page_size, backing)
        if not found:
            return
        uffd.unregister(address, recipe.length)
        empty(address, recipe.length, backing)
    raise not_empty(
        recipe.length,
        f"{found}, each time that it was dropped: something in this process fills new mappings",
        "look for a preloaded library (LD_PRELOAD) that does",
    )
