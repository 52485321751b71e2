"""The system calls of the simulated client, and the events that they raise."""

from __future__ import annotations

from collections.abc import Iterable

from pager_core.simmemory import Memory
from pager_core.simparts import NONE, ZEROS, Call, Event, Mm, Slot, Thread


class Calls:
    """Whoever raised an event sleeps until it was read; `resume` lets it run on."""

    def __init__(self, memory: Memory) -> None:
        self._memory = memory

    def dontneed(self, mm: Mm, start: int, count: int) -> Call | None:
        """madvise(MADV_DONTNEED) on pages of one mapping."""
        return self._drop(mm, "dontneed", start, count)

    def remove(self, mm: Mm, start: int, count: int) -> Call | None:
        """madvise(MADV_REMOVE): drops the pages from the file too."""
        return self._drop(mm, "remove", start, count)

    def _drop(self, mm: Mm, name: str, start: int, count: int) -> Call | None:
        slots = self._memory.stretch(mm, start, count)
        if not slots:
            return None
        call = Call(mm, name, slots=slots)
        for _, slot in slots:
            slot.truth.dropping += 1
            slot.truth.allowed.add(ZEROS)
        if slots[0][1].registered:
            self._raise(call, [Event("remove", call, start, start + len(slots))])
        else:
            self._drop_now(call)
        return call

    def _drop_now(self, call: Call) -> None:
        for vpn, slot in call.slots:
            truth = slot.truth
            truth.dropping -= 1
            if call.mm.slots.get(vpn) is not slot:
                continue  # unmapped or moved meanwhile: madvise passes over it
            if call.name == "remove":
                self._memory.uncache(slot.index)
                truth.allowed = {ZEROS}
            else:
                slot.entry = NONE
                cached = self._memory.kind.file and slot.index in self._memory.file.cache
                truth.allowed = {self._memory.file.cache[slot.index] if cached else ZEROS}
                truth.given_up &= self._memory.kind.shared  # the marker of other mappings stays
            truth.known = True

    def punch(self, index: int) -> None:
        """fallocate(FALLOC_FL_PUNCH_HOLE) on one page of the file: no event."""
        self._memory.uncache(index)
        truth = self._memory.truth_of(index)
        if truth is not None:
            truth.allowed = {ZEROS} if truth.known else {ZEROS, self._memory.unfilled(index)}

    def resize(self, size: int) -> None:
        """ftruncate: pages beyond the end go, and accesses there raise SIGBUS."""
        for index in range(size, self._memory.file.size):
            self.punch(index)
        self._memory.file.size = size

    def alias(self, index: int) -> None:
        """The client writes the whole page through another mapping of the file."""
        if index < self._memory.file.size:
            value = f"alias {self._memory.number()}"
            self._memory.file.cache[index] = value
            truth = self._memory.truth_of(index)
            if truth is not None:
                truth.wrote(value)

    def munmap(self, mm: Mm, start: int, count: int) -> Call | None:
        slots = self._memory.stretch(mm, start, count)
        if not slots:
            return None
        call = Call(mm, "munmap")
        for vpn, _ in slots:
            del mm.slots[vpn]
        if slots[0][1].registered:
            self._raise(call, [Event("unmap", call, start, start + len(slots))])
        return call

    def mremap(
        self, mm: Mm, start: int, count: int, *, new: int | None = None, change: int = 0,
        keep: bool = False,
    ) -> Call | None:  # fmt: skip
        """Move pages to `new` (default: where nothing is), growing or shrinking by `change`.

        `keep`: MREMAP_DONTUNMAP.  Events: UNMAP of what was at the target, REMAP, UNMAP of the
        tail cut off, UNMAP of the old place: one after the other (measured on 6.18).
        """
        slots = self._memory.stretch(mm, start, count)
        count = len(slots)
        size = count if keep else max(count + change, 1)
        new = self._memory.room(size) if new is None else new
        if not slots or (new < start + count and start < new + size):
            return None
        call = Call(mm, "mremap")
        events = [
            Event("unmap", call, vpn, vpn + 1) for vpn in range(new, new + size)
            if mm.slots.pop(vpn, None)
        ]  # fmt: skip
        vma = self._memory.number()
        moved = min(size, count)
        for at, (vpn, slot) in enumerate(slots):
            if at < moved:
                mm.slots[new + at] = slot
            del mm.slots[vpn]
            if keep:
                mm.slots[vpn] = self._memory.extra(slot.index, slot)
        last = slots[-1][1]
        for at in range(moved, size):
            mm.slots[new + at] = self._memory.extra(last.index + 1 + at - moved, last)
        for at in range(size):
            mm.slots[new + at].vma = vma
        events.append(Event("remap", call, start, start + moved, new))
        if moved < count:
            events.append(Event("unmap", call, start + moved, start + count))
        if not keep:
            events.append(Event("unmap", call, start, start + moved))
        if last.registered:
            self._raise(call, events)
        return call

    def grow(self, mm: Mm, count: int) -> None:
        """mremap that lengthens the last mapping in place: no event, registered as the rest."""
        if not mm.slots:
            return
        top = max(mm.slots)
        last = mm.slots[top]
        for at in range(1, count + 1):
            mm.slots[top + at] = self._memory.extra(last.index + at, last)

    def fork(self, mm: Mm) -> Call:
        """fork with EVENT_FORK: the child's address space, whose threads start after the event."""
        truths = mm.truths if self._memory.kind.shared else [truth.copy() for truth in mm.truths]
        child = Mm(f"child {len(self._memory.mms)}", truths)
        renamed = {id(old): new for old, new in zip(mm.truths, truths, strict=True)}
        vmas: dict[int, int] = {}
        for vpn, slot in mm.slots.items():
            truth = slot.truth
            if not self._memory.kind.shared:
                truth = renamed.get(id(truth)) or truth.copy()
            vma = vmas.setdefault(slot.vma, self._memory.number())
            twin = Slot(truth, slot.index, vma, slot.registered, slot.entry, slot.content)
            if self._memory.kind.shared:
                twin.entry = NONE  # page tables of shared memory are not copied, markers neither
            child.slots[vpn] = twin
        self._memory.mms.append(child)
        call = Call(mm, "fork")
        if any(slot.registered for slot in mm.slots.values()):
            self._raise(call, [Event("fork", call, child=child)])
        else:
            self._started(child)
        return call

    def _started(self, child: Mm) -> None:
        child.threads = [Thread(child, f"{child.name} thread {number}") for number in range(2)]

    def exit(self, mm: Mm) -> None:
        """The process ends, with whatever it was doing."""
        mm.alive = False
        for call in mm.calls:
            for _, slot in call.slots:
                slot.truth.dropping -= 1
        mm.calls.clear()
        mm.changing = 0
        mm.faults.clear()
        mm.events.clear()
        mm.threads.clear()

    def _raise(self, call: Call, events: Iterable[Event]) -> None:
        call.events.extend(events)
        call.mm.overtaking |= not call.mm.changing
        call.mm.changing += len(call.events)
        call.mm.calls.append(call)
        self._queue(call)

    def _queue(self, call: Call) -> None:
        call.stage = "asleep"
        call.mm.events.append(call.events[0])

    def resume(self, call: Call) -> None:
        """The thread in `call`, whose event was read, runs: to its next sleep, or to its end."""
        assert call.stage != "asleep"
        if call.stage == "opened":
            call.mm.calls.remove(call)
            self._drop_now(call)
            return
        event = call.events.popleft()
        call.mm.changing -= 1
        if call.events:
            self._queue(call)
        elif event.kind == "remove":
            call.stage = "opened"  # fills work again, and the pages are still there
        else:
            call.mm.calls.remove(call)
            if event.child is not None:
                self._started(event.child)
