"""What handlers of scenarios have in common."""

from __future__ import annotations

from userfault.check.explore.building.caller import Caller
from userfault.check.explore.building.calls import Descriptor
from userfault.check.explore.building.calls_uffd import Message
from userfault.check.explore.building.world import Area


def copied(
    me: Caller, uffd: Descriptor, page: int, src: bytes | int, length: int, *, wp: bool = False
) -> object:
    """COPY of a page; where it fails somebody else may have served it, so its waiters are woken.

    Not with EAGAIN: an event comes first, and who is woken before it only faults again.
    """
    done = me.copy(uffd, page, src, length, wp=wp)
    if done not in (length, "EAGAIN"):
        me.wake(uffd, page, length)
    return done


def served(me: Caller, uffd: Descriptor, area: Area, data: bytes = b"new") -> object:
    """Read one message and copy its page in; what came instead of a fault."""
    told = me.message(uffd)
    if not isinstance(told, Message) or told.event != "PAGEFAULT":
        return told
    return copied(me, uffd, told.address & -area.step, data, area.step)
