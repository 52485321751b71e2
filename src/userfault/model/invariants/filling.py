"""Who fills pages, where, when; what events promise; what is zapped."""

from __future__ import annotations

from userfault.model.invariants.rule import Seen, broken
from userfault.model.mm import pgtable as pt


def filled_once(seen: Seen) -> None:
    """A fill finds nothing, or a uffd marker: a page or a guard is never overwritten."""
    for _, context, _, address, found, _, _ in seen.did("fill"):
        if found is None:
            continue
        guard = found[0] & pt.MARK_GUARD and not context.mm.profile.copy_over_guard
        if found[1] is not None or guard:
            what = "a guard" if guard else found[1].name
            broken(f"a fill of {address:#x} overwrote {what}")


def filled_as_checked(seen: Seen) -> None:
    """A fill ends in the memory that its caller named: type, file, offset, modes as at first."""
    for _, _, _, address, _, _, same in seen.did("fill"):
        if not same:
            broken(f"a fill of {address:#x} went to a mapping that came after it began")


def event_gate(seen: Seen) -> None:
    """While an event is announced or queued, nothing is filled through its descriptor."""
    for note in seen.did("fill"):
        context, address = note[1], note[3]
        if context is not None and context.changing:
            broken(f"{address:#x} was filled through {context.name}, which has an event pending")
    for context in seen.contexts:
        if context.changing < len(context.events):
            broken(f"{context.name} has {len(context.events)} events and counts {context.changing}")


def live_mapping(seen: Seen) -> None:
    """Pages are taken away through mappings that are there, never through one that was."""
    for _, mm, vma in seen.did("zap"):
        if not mm.alive or mm.vmas.get(vma.start) is vma:
            continue
        if not any(place[0] == "maps" and place[1] == mm.number for place in seen.places):
            broken(f"pages were zapped by a mapping at {vma.start:#x} that was gone")


def contract(seen: Seen) -> None:
    """A memory type keeps the contract of its hooks."""
    for breach in seen.spaces.breaches:
        broken(str(breach))
