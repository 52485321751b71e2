"""Deliberate errors in the model: one line each but where an order is turned round."""

from __future__ import annotations

import msgspec


class Mutation(msgspec.Struct, frozen=True):
    """In `file` of src/userfault/model, the `before` that stands there once becomes `after`."""

    name: str
    file: str
    before: str
    after: str


_TELL = """        mm.userfaultfd.unmap_complete(task, call.early)
        mm.userfaultfd.mremap_complete(task, call.moved)
        mm.userfaultfd.unmap_complete(task, call.unmaps)
"""

MUTATIONS = (
    Mutation(
        "guards of a file keep its mappings apart",
        "mm/madvise.py",
        "if vma.object is None or mm.profile.guards_prepare_files:",
        "if True:",
    ),
    Mutation(
        "a mapping forgets that it has had guards",
        "mm/fork.py",
        "if vma.family or twin.modes & (vmas.WP | vmas.RWP) or vma.guarded:",
        "if vma.family or twin.modes & (vmas.WP | vmas.RWP):",
    ),
    Mutation(
        "PAGEMAP_SCAN tells of no end after an error",
        "faces/syscalls/witnesses.py",
        "return Result(errno=done.errno, data=data)",
        "return Result(errno=done.errno, data=calls.SCAN_END.struct.pack(0))",
    ),
    Mutation(
        "empty entries are WRITTEN to a scan for that alone",
        "profiles.py",
        "empty_is_written: bool = True",
        "empty_is_written: bool = False",
    ),
    Mutation(
        "a read of advised memory maps a real huge page",
        "mm/fault.py",
        "    if not write and vma.ops.zero_page:\n        mm.map_thp",
        "    if not write and not vma.ops.zero_page:\n        mm.map_thp",
    ),
    Mutation(
        "MISSING is not asked before a huge page comes",
        "mm/fault.py",
        "    if vma.modes & vmas.MISSING:\n        return _MISSING\n"
        "    if not write and vma.ops.zero_page:\n        mm.map_thp",
        "    if not write and vma.ops.zero_page:\n        mm.map_thp",
    ),
    Mutation(
        "a fault for a huge page prepares no anon_vma",
        "mm/fault.py",
        "    mm.prepare_private(vma)  # for a read too (do_huge_pmd_anonymous_page)\n",
        "",
    ),
    Mutation(
        "huge pages are split where they are protected whole",
        "mm/thp.py",
        "if start <= at and at + pt.PMD_SIZE <= end:",
        "if start <= at and at + pt.PMD_SIZE < end:",
    ),
    Mutation(
        "markers are left under a huge page",
        "mm/change_protection.py",
        "return [at for at in every if not mm.is_huge(at)]",
        "return list(every)",
    ),
    Mutation(
        "a write under WP_ASYNC keeps a huge page",
        "mm/fault.py",
        "            if page & pt.PMD_MASK in mm.thp:  # what was written is told of small pages\n"
        "                thp.split(mm, page & pt.PMD_MASK)\n"
        "                return _RESOLVED\n",
        "",
    ),
    Mutation(
        "PAGEMAP_SCAN splits every huge page that it protects",
        "mm/scan.py",
        "if told < pt.PMD_SIZE:",
        "if told:",
    ),
    Mutation(
        "the huge zero page does not move",
        "uffd/move.py",
        "if not folio.flags & folios.ZERO and not flags & pt.EXCLUSIVE:",
        "if not flags & pt.EXCLUSIVE:",
    ),
    Mutation(
        "a child's huge page stays writable",
        "mm/fork.py",
        "        if flags & pt.EXCLUSIVE:\n"
        "            parent.change(vma, address, entry, 0, pt.EXCLUSIVE)\n"
        "        if not folio.flags & folios.ZERO:",
        "        if not folio.flags & folios.ZERO:",
    ),
    Mutation(
        "a write to the huge zero page splits it",
        "mm/cow.py",
        "new = thp.of_zeroes(mm) if mm.profile.zero_page_becomes_huge else None",
        "new = None",
    ),
    Mutation(
        "MOVE asks the page that it is to move",
        "uffd/move.py",
        "exclusive = large.exclusive if large is not None else flags & pt.EXCLUSIVE",
        "exclusive = flags & pt.EXCLUSIVE",
    ),
    Mutation(
        "MOVE leaves a page that was split by its entry one",
        "uffd/move.py",
        "    if large is not None:\n        thp.split_large",
        "    if not folio:\n        thp.split_large",
    ),
    Mutation(
        "UNREGISTER takes the uffd-wp bit of poison",
        "mm/change_protection.py",
        "            if flags & pt.MARKS == pt.MARK_WP:  # of poison and guards it stays\n"
        "                mm.mark(vma, address, 0)\n",
        "            if flags & pt.MARK_WP:\n"
        "                mm.mark(vma, address, flags & ~pt.MARK_WP)\n",
    ),
    Mutation(
        "mremap splits huge pages",
        "mm/mremap.py",
        "if new & ~pt.PMD_MASK or mm.table.has_table(new, 12):",
        "if True:",
    ),
    Mutation(
        "MADV_COLLAPSE fills holes of registered memory",
        "mm/collapse.py",
        "            if vma.modes:\n",
        "            if not vma:\n",
    ),
    Mutation(
        "MADV_COLLAPSE drops protection",
        "mm/collapse.py",
        "if flags & (pt.UFFD_WP | pt.UFFD_RWP | pt.MARK_WP):",
        "if flags & pt.MARK_WP:",
    ),
    Mutation(
        "MADV_COLLAPSE of a small range succeeds",
        "mm/collapse.py",
        "code = mm.profile.collapse_of_nothing if first > behind else 0",
        "code = 0",
    ),
    Mutation(
        "COPY touches its source before it sees a huge page",
        "uffd/mfill.py",
        "            if mm.is_huge(job.dst + done):\n"
        "                raise Errno(errno.EEXIST)  # before anything else is looked at\n",
        "",
    ),
    Mutation(
        "pagemap looks at each page of a huge one",
        "profiles.py",
        "exclusive_by_first_page: bool = True",
        "exclusive_by_first_page: bool = False",
    ),
    Mutation(
        "REMAP tells the length before",
        "mm/mremap.py",
        "told = old_length if profile.remap_tells_moved else call.asked_length",
        "told = call.asked_length",
    ),
    Mutation(
        "a file is asked before its place is clear",
        "mm/mmap.py",
        "        _make_room(mm, address, address + length, unmaps)\n"
        "        _ask_file(behind, shared=is_shared(flags))\n",
        "        _ask_file(behind, shared=is_shared(flags))\n"
        "        _make_room(mm, address, address + length, unmaps)\n",
    ),
    Mutation(
        "a removal ends where its mapping was cut meanwhile",
        "mm/madvise.py",
        "        if mm.profile.removal_goes_on:\n            stop = min(stop, vma.end)\n",
        "",
    ),
    Mutation(
        "memory that came with a fork joins what never was touched",
        "mm/address_space.py",
        "return self.profile.joins_untouched and not changed.inherited",
        "return self.profile.joins_untouched",
    ),
    Mutation(
        "wrong errno for unregistered memory",
        "uffd/mfill.py",
        "vma.end or vma.context is None:\n        raise Errno(errno.ENOENT)",
        "vma.end or vma.context is None:\n        raise Errno(errno.EINVAL)",
    ),
    Mutation(
        "a fill over a page succeeds",
        "uffd/pages.py",
        "if there[0] & pt.PRESENT or guarded:",
        "if guarded:",
    ),
    Mutation(
        "poison over a page succeeds",
        "uffd/pages.py",
        "_check_size(vma, address)\n    if job.mm.entry(vma, address) is not None:\n"
        "        raise Errno(errno.EEXIST)\n    _note(job, vma, address)\n    job.mm.mark",
        "_check_size(vma, address)\n    job.mm.mark",
    ),
    Mutation(
        "COPY with WP leaves the bit out",
        "uffd/pages.py",
        "(pt.UFFD_WP if wp else 0)",
        "0",
    ),
    Mutation(
        "COPY to the private mapping of a file fills the file",
        "uffd/pages.py",
        "ops = vma.ops if cached else vma.ops.for_private\n    place = where(mm, vma, "
        "address, shared=cached)",
        "ops = vma.ops\n    place = where(mm, vma, address, shared=True)",
    ),
    Mutation(
        "a fill that ends early hides it",
        "uffd/operations.py",
        "raise Errno(errno.EAGAIN if done else code)",
        "raise Errno(code)",
    ),
    Mutation(
        "a fill wakes nobody",
        "uffd/operations.py",
        "if done and not mode & DONTWAKE:",
        "if done and mode & DONTWAKE:",
    ),
    Mutation(
        "missing EAGAIN gate",
        "uffd/operations.py",
        "    if context.is_changing:\n",
        "    if False:\n",
    ),
    Mutation(
        "un-protecting wakes nobody",
        "uffd/operations.py",
        "if not protecting and not quiet:",
        "if protecting and not quiet:",
    ),
    Mutation(
        "WRITEPROTECT takes DONTWAKE while protecting",
        "uffd/operations.py",
        "if mode & ~3 or (protecting and quiet):",
        "if mode & ~3:",
    ),
    Mutation(
        "off by one at the end of the pending that wake",
        "uffd/context.py",
        "woken = [waiter for waiter in pending if start <= waiter.address < end]",
        "woken = [waiter for waiter in pending if start <= waiter.address < end - 0x1000]",
    ),
    Mutation(
        "off by one at the end of the delivered that wake",
        "uffd/context.py",
        "woken = [waiter for waiter in self.delivered if start <= waiter.address < end]",
        "woken = [waiter for waiter in self.delivered if start <= waiter.address <= end]",
    ),
    Mutation(
        "lost THREAD_ID",
        "uffd/hooks.py",
        "task.tid if features & _THREAD_ID else 0,",
        "0,",
    ),
    Mutation(
        "EXACT_ADDRESS is rounded",
        "uffd/hooks.py",
        "address if features & _EXACT else page,",
        "page,",
    ),
    Mutation(
        "SIGBUS is not raised",
        "uffd/hooks.py",
        "if features & _SIGBUS or task.killed:",
        "if task.killed:",
    ),
    Mutation(
        "USER_MODE_ONLY serves the kernel",
        "uffd/hooks.py",
        "if context.user_mode_only and not user:",
        "if False:",
    ),
    Mutation(
        "closing wakes nobody",
        "uffd/context.py",
        "        self.wake_all()\n        while self.events:",
        "        while self.events:",
    ),
    Mutation(
        "poison goes with the registration",
        "mm/change_protection.py",
        "            if flags & pt.MARKS == pt.MARK_WP:  # of poison and guards it stays\n"
        "                mm.mark(vma, address, 0)\n",
        "            mm.mark(vma, address, 0)\n",
    ),
    Mutation(
        "messages come last first",
        "uffd/context.py",
        "waiter = self.pending.popleft()",
        "waiter = self.pending.pop()",
    ),
    Mutation(
        "events before faults",
        "uffd/messages.py",
        "    waiter = context.next_fault()\n",
        "    waiter = None if context.events else context.next_fault()\n",
    ),
    Mutation(
        "an event's sender goes on before it is read",
        "uffd/events.py",
        "    context.wake_readers()\n    task.sched.block(",
        "    context.wake_readers()\n    if event.child is None:\n        return\n"
        "    task.sched.block(",
    ),
    Mutation(
        "an unmapping leaves the mapping",
        "mm/mmap.py",
        "        discard(mm, vma)\n\n\ndef discard",
        "        pass\n\n\ndef discard",
    ),
    Mutation(
        "the UNMAP event is read before the mapping has gone",
        "mm/mmap.py",
        "    try:\n        unmap_locked(mm, address, address + length, unmaps)\n    finally:\n",
        "    mm.lock.write_done()\n"
        "    told: Unmaps = []\n"
        "    for vma in mm.overlapping(address, address + length):\n"
        "        mm.userfaultfd.unmap_prep(vma, address, address + length, told)\n"
        "    mm.userfaultfd.unmap_complete(task, told)\n"
        "    mm.lock.write()\n"
        "    try:\n        unmap_locked(mm, address, address + length, unmaps)\n"
        "        for context, _, _ in unmaps:\n            context.changing -= 1\n"
        "        unmaps.clear()\n    finally:\n",
    ),
    Mutation(
        "the REMOVE event says one page too much",
        "uffd/hooks.py",
        "_send(task, context, abi.UFFD_EVENT_REMOVE, start, end)",
        "_send(task, context, abi.UFFD_EVENT_REMOVE, start, end + 4096)",
    ),
    Mutation(
        "mremap drops the wp bit",
        "mm/mremap.py",
        "bits = 0 if keep_wp else pt.UFFD_WP | pt.UFFD_RWP",
        "bits = pt.UFFD_WP | pt.UFFD_RWP",
    ),
    Mutation(
        "mremap keeps the registration without its event",
        "mm/mremap.py",
        "        joined.reset_ctx()\n",
        "",
    ),
    Mutation(
        "a child keeps wp bits without its event",
        "mm/fork.py",
        "lost = 0 if twin.modes & (vmas.WP | vmas.RWP) else pt.UFFD_WP | pt.UFFD_RWP",
        "lost = 0",
    ),
    Mutation(
        "a private page is not shared by fork",
        "mm/fork.py",
        "if not vma.shared and flags & pt.EXCLUSIVE:",
        "if False:",
    ),
    Mutation(
        "UNREGISTER leaves wp bits behind",
        "uffd/registration.py",
        "    clear_protection(mm, part, low, high)\n",
        "",
    ),
    Mutation(
        "UNREGISTER wakes nobody",
        "uffd/registration.py",
        "        owner.wake(low, high - low)\n",
        "        pass\n",
    ),
    Mutation(
        "REGISTER takes the memory of another descriptor",
        "uffd/registration.py",
        "    if vma.context is not None and vma.context is not context:\n"
        "        raise Errno(errno.EBUSY)\n",
        "",
    ),
    Mutation(
        "MINOR is asked before the page cache",
        "mm/fault.py",
        "    elif vma.modes & vmas.MINOR:",
        "    elif vma.modes & vmas.MINOR and write:",
    ),
    Mutation(
        "a protected page is written",
        "mm/fault.py",
        "            if not mm.userfaultfd.wp_async(vma):",
        "            if False:",
    ),
    Mutation(
        "fault-around in registered memory",
        "mm/fault.py",
        "around = not write and not vma.modes & ~vmas.MISSING and ops.fault_around",
        "around = not write and ops.fault_around",
    ),
    Mutation(
        "protecting marks nothing empty",
        "mm/change_protection.py",
        "return vma.ops.fault_folio is not None or mm.userfaultfd.wp_unpopulated(vma)",
        "return mm.userfaultfd.wp_unpopulated(vma)",
    ),
    Mutation(
        "MOVE over a page succeeds",
        "uffd/move.py",
        "    if mm.entry(target, dst) is not None:\n        raise Errno(errno.EEXIST)\n",
        "",
    ),
    Mutation(
        "MOVE takes a page that fork shares",
        "uffd/move.py",
        "if not exclusive or folio.flags & folios.PINNED:",
        "if folio.flags & folios.PINNED:",
    ),
    Mutation(
        "PAGEMAP_SCAN does not protect",
        "mm/scan.py",
        "if arg.flags & abi.PM_SCAN_WP_MATCHING and self.pages > before:",
        "if False:",
    ),
    Mutation(
        "a marker left over from another registration stays",
        "mm/fault.py",
        "        mm.mark(vma, page, 0)\n        return _empty(mm, vma, page, address, 0, write)",
        "        return _empty(mm, vma, page, address, 0, write)",
    ),
    Mutation(
        "a huge page's leftover protection is lifted by a write",
        "mm/fault.py",
        "        elif vma.ops.pool:\n            return _AGAIN",
        "        elif False:\n            return _AGAIN",
    ),
    Mutation(
        "a huge page loses the protection of its leftover marker",
        "mm/fault.py",
        "if not vma.modes & vmas.WP and not vma.ops.pool:",
        "if not vma.modes & vmas.WP:",
    ),
    Mutation(
        "guards replace uffd-wp markers",
        "mm/madvise.py",
        "    mm.zap(vma, start, end, drop_markers=False)\n    if mm.sched.preemptive",
        "    mm.zap(vma, start, end, drop_markers=True)\n    if mm.sched.preemptive",
    ),
    Mutation(
        "mlock reads private pages only",
        "mm/mmap.py",
        "write = bool(vma.prot & mman.PROT_WRITE) and not vma.shared",
        "write = False",
    ),
    Mutation(
        "locked memory that grows is not faulted in",
        "mm/mremap.py",
        "        _populate(task, call, result)\n    finally:",
        "    finally:",
    ),
    Mutation(
        "locked memory that moves and grows is faulted in after its REMAP event",
        "mm/mremap.py",
        f"        _populate(task, call, result)\n    finally:\n{_TELL}",
        f"    finally:\n{_TELL}    _populate(task, call, result)\n",
    ),
    Mutation(
        "DONTUNMAP leaves what stays locked",
        "mm/mremap.py",
        "        vma.flags &= ~vmas.LOCKED\n        if vma.end",
        "        if vma.end",
    ),
    Mutation(
        "closing a descriptor joins everything that could join",
        "uffd/context.py",
        "mm.merge(vma.start, vma.end)",
        "mm.merge(0, mm.task_size)",
    ),
    Mutation(
        "mprotect leaves locked pages out that may be written now",
        "mm/mmap.py",
        "                if copies:\n                    access.populate_held(mm, start, stop)\n",
        "",
    ),
    Mutation(
        "PAGEMAP_SCAN protects what is protected",
        "mm/scan.py",
        "        if there and not written:\n            return False",
        "        if not there and not written:\n            return False",
    ),
    Mutation(
        "PAGEMAP_SCAN protects a part of a huge marker",
        "mm/scan.py",
        "if part < step and entry is not None:",
        "if part < step and entry is not None and entry[1] is not None:",
    ),
    Mutation(
        "MOVE by who is not the owner",
        "uffd/operations.py",
        "    if caller is not context.mm:\n        raise Errno(errno.EINVAL)\n",
        "",
    ),
)
# A few of them, for the tests.
QUICK = (
    "missing EAGAIN gate",
    "mremap drops the wp bit",
    "off by one at the end of the delivered that wake",
    "messages come last first",
)
