"""Whether a memory is mapped over a copy of its snapshot that all restores of the user share."""

from __future__ import annotations

from userfault.api.options import Options
from userfault.kernel.errors import Unavailable, UsageError
from userfault.kernel.memtypes import BASE_PAGE, Memory, round_up
from userfault.kernel.memtypes import memory as named_memory
from userfault.pager.core.policy import Policy
from userfault.pager.drivers.shared.asking import Grant, ask, keeps, key_of
from userfault.source.spec import Resolved, StoreSpec

MEMORY = named_memory("shmem-private")


def chosen(memory: str | Memory | None, page_size: int | None, policy: Policy) -> Memory:
    """What memory is to be made if nothing is shared.  Raises UsageError for none that there is.

    With `share="on"` it may be named only as what it will be.
    """
    found = named_memory("anon" if memory is None else memory, page_size)
    if policy.share == "on" and memory is not None and found != MEMORY:
        raise UsageError(
            f'{found.name} memory with policy share="on"',
            cause=f"what is shared is the page cache of a file, mapped as {MEMORY.name}",
            cure="leave memory= out, or do not share",
        )
    return found


def shared_copy(
    resolved: Resolved, options: Options, policy: Policy, *, free: bool
) -> Grant | None:
    """The copy to map, or None.  `free`: nobody has named the memory that is to be made.

    Raises, with `share="on"` alone, UsageError for what cannot be shared and Unavailable where no
    copy is to be had.
    """
    if options.prepared or policy.share == "off":
        return None
    spec = resolved.spec
    bounded = policy.resident_bytes or policy.resident_percent  # no shared page is taken out
    excluded = bounded or options.track or not free or not isinstance(spec, StoreSpec)
    if policy.share == "auto" and (excluded or not keeps()):
        return None
    if options.track:
        raise UsageError(
            'track=True with policy share="on"',
            cause="writes are not noted where a write makes a page of its own",
            cure="leave one of them out",
        )
    if bounded:
        raise UsageError(
            'a residency budget with policy share="on"',
            cause="no page is taken out of a copy that others use",
            cure="leave one of them out",
        )
    if not isinstance(spec, StoreSpec):
        raise UsageError(
            'policy share="on"',
            cause="the source is no snapshot in a store: nothing else is known by what is in it",
            cure="`userfault pack` it, or do not share (a plain file has its page cache)",
        )
    pages = round_up(spec.length, BASE_PAGE) // BASE_PAGE
    key = key_of(resolved.fd, spec.length)
    try:
        return ask(key, pages, policy.share_keep_s, start=policy.share == "on")
    except Unavailable:
        if policy.share == "auto":
            return None
        raise
