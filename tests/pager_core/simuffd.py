"""What the pager does with its userfaultfd on the simulated kernel."""

from __future__ import annotations

import errno
from collections.abc import Callable, Sequence

from pager_core.simmemory import Memory
from pager_core.simparts import CACHE, OWN, POISON, Event, Fault, Mm, Slot, Violation, rouse


class Uffd:
    """The descriptors of all address spaces."""

    def __init__(self, memory: Memory) -> None:
        self._memory = memory
        self.poor = 0  # so many allocations of the pager will fail
        self.memory_retries = 1 << 30  # refusals after which giving a page up is right

    def read(self, mm: Mm, limit: int) -> list[Fault | Event]:
        """read(2): up to `limit` messages, faults first."""
        found: list[Fault | Event] = []
        while mm.faults and len(found) < limit:
            found.append(mm.faults.popleft())
        while mm.events and len(found) < limit:
            event = mm.events.popleft()
            event.call.stage = "ready"
            found.append(event)
        return found

    def fill(
        self, mm: Mm, kind: str, vpn: int, contents: Sequence[str], *,
        stop: int = -1, result: Callable[[int], None],
    ) -> tuple[int, int]:  # fmt: skip
        """One fill ioctl on as many pages as `contents` has: (errno, pages done).

        `stop`: it is interrupted there (its lock was contended).  `result`: is told the pages done
        before anybody is woken, as the kernel writes its answer into the argument.
        """
        if mm.changing and not mm.overtaking:
            return errno.EAGAIN, 0
        if not mm.alive:
            return errno.ESRCH, 0
        slots = self._memory.stretch(mm, vpn, len(contents))
        if len(slots) < len(contents) or not slots[0][1].registered:
            return errno.ENOENT, 0
        if mm.changing:
            return errno.EAGAIN, 0
        code = done = 0
        for done, ((_, slot), content) in enumerate(zip(slots, contents, strict=True)):
            code = errno.EAGAIN if done == stop else self._install(kind, slot, content)
            if code:
                break
        else:
            done = len(contents)
        if done:
            result(done)
            self.wake(mm, vpn, done)
        return (errno.EAGAIN if done and code else code), done

    def _install(self, kind: str, slot: Slot, content: str) -> int:
        """One page of a fill: 0 or an errno."""
        if self._memory.kind.file and slot.index >= self._memory.file.size:
            return errno.EFAULT
        if kind == "continue":
            return self._map_cached(slot)
        if self._refuse(slot):
            return errno.EEXIST if self._memory.kind.ambiguous and kind == "copy" else errno.ENOMEM
        if slot.entry in (OWN, CACHE) or (slot.entry == POISON and kind != "copy"):
            return errno.EEXIST
        return self._mark(slot) if kind == "poison" else self._put(slot, content)

    def _mark(self, slot: Slot) -> int:
        """POISON where nothing is mapped."""
        if not slot.truth.given_up:
            raise Violation(f"page {slot.truth.page} is poisoned without a reason")
        slot.entry = POISON
        return 0

    def _put(self, slot: Slot, content: str) -> int:
        """COPY or ZEROPAGE where nothing is mapped."""
        if self._memory.kind.shared and slot.index in self._memory.file.cache:
            return errno.EEXIST
        if self._memory.kind.shared:
            self._memory.file.cache[slot.index] = content
            slot.entry = CACHE
        else:
            slot.entry, slot.content = OWN, content
        slot.truth.known = True
        return 0

    def _map_cached(self, slot: Slot) -> int:
        if not self._memory.kind.file:
            return errno.EINVAL
        if slot.index not in self._memory.file.cache:
            return errno.EFAULT
        if slot.entry in (OWN, CACHE):
            return errno.EEXIST
        slot.entry = CACHE
        slot.truth.known = True
        return 0

    def _refuse(self, slot: Slot) -> bool:
        if self.poor <= 0:
            return False
        self.poor -= 1
        slot.truth.refusals += 1
        slot.truth.given_up |= slot.truth.refusals > self.memory_retries
        return True

    def wake(self, mm: Mm, vpn: int, count: int) -> None:
        """UFFDIO_WAKE: works on any range, and with an event pending."""
        for thread in mm.threads:
            if thread.state == "waiting" and vpn <= thread.vpn < vpn + count:
                rouse(thread)

    def wake_all(self, mm: Mm) -> None:
        """UFFDIO_WAKE of the whole address space."""
        self.wake(mm, 0, 1 << 64)

    def unregister(self, mm: Mm, vpn: int, count: int) -> None:
        """UFFDIO_UNREGISTER: faults are the kernel's own from now on; who waits is woken."""
        self._memory.split(mm, vpn)
        self._memory.split(mm, vpn + count)
        for at in range(vpn, vpn + count):
            if at in mm.slots:
                mm.slots[at].registered = False
        self.wake(mm, vpn, count)

    def shown(self, mm: Mm, vpn: int) -> str | None:
        """What the page that is mapped there shows; None where none is."""
        slot = mm.slots.get(vpn)
        if slot is None or slot.entry not in (OWN, CACHE):
            return None
        return slot.content if slot.entry == OWN else self._memory.file.cache[slot.index]
