"""guest_memfd beside its guest: its own touches, those of KVM, and pages that it makes its own.

Three ways lead to the memory: a mapping of the host, KVM's own access by the slot's host address,
and the guest's stage-2 fault, which goes through no mapping.
"""

from __future__ import annotations

import os
from errno import EEXIST, EFAULT, ENOMEM

from userfault.check.words.outcome import expect
from userfault.check.words.scenes import EMPTY
from userfault.check.words.statement import statement
from userfault.check.words.thread import SIGBUS, Thread
from userfault.check.words.uffd import MINOR, MISSING, WP, Uffd
from userfault.kernel.calls import (
    PAGE,
    Fallocate,
    GuestConvert,
    GuestRead,
    GuestWrite,
    KvmRead,
    Madvise,
    Read,
    Userfaultfd,
)
from userfault.kernel.memtypes import Memory
from userfault.kernel.modes import Feature
from userfault.uapi import mman
from userfault.uapi import userfaultfd as abi

_PATCHED = "measured on 7.3.4 with the patches posted to linux-mm in March 2026"
_CONVERSION = "patches of 2026 for conversion in place: an index is asked, not the file"
_GUEST = ("guest_memfd",)
_OF_MINOR = abi.UFFD_PAGEFAULT_FLAG_MINOR


@statement(
    240,
    "A guest's touch of a page that is not there raises no message, whatever is registered: it"
    " makes a page of zeros, and COPY is EEXIST then.",
    since="next",
    source=_PATCHED,
    memories=_GUEST,
)
def a_guest_s_touch_is_no_message(t: Thread, memory: Memory) -> None:
    for mode in (MISSING, MISSING | MINOR | WP):
        u, area = t.registered(memory, mode)
        expect(t.ok(GuestRead(area.fd, 0, 4)).data, bytes(4), "what the guest reads")
        u.silent("the guest's touch")
        expect(t.page(area.address), EMPTY, "the host's entry")
        u.copy(area.address, t.source(), PAGE, fails=EEXIST)


@statement(
    241,
    "A guest sees the page that COPY put into the file, and its host what the guest stores there.",
    since="next",
    source=_PATCHED,
    memories=_GUEST,
)
def a_guest_has_the_copied_page(t: Thread, memory: Memory) -> None:
    u, area = t.registered(memory, MISSING)
    u.copy(area.address, t.source(b"copy"), PAGE)
    expect(t.ok(GuestRead(area.fd, 0, 4)).data, b"copy", "what the guest reads")
    t.ok(GuestWrite(area.fd, 0, b"g"))
    expect(t.read(area.address, 4), b"gopy", "what the host reads")


@statement(
    242,
    "A page that a guest has made is a minor fault of its host's mapping, and CONTINUE maps it.",
    since="next",
    source=_PATCHED,
    memories=_GUEST,
)
def a_page_of_the_guest_is_a_minor_fault(t: Thread, memory: Memory) -> None:
    u, area = t.registered(memory, MINOR)
    t.ok(GuestWrite(area.fd, 0, b"guest"))
    reader = t.thread().blocks(Read(area.address, 5))
    u.fault(area.address, _OF_MINOR)
    u.continue_(area.address, PAGE)
    reader.read(b"guest")


@statement(
    243,
    "What a host writes to a page that fallocate(2) made and CONTINUE mapped, its guest reads: the"
    " guest's touch does not zero it.",
    since="next",
    source="as between two mappings of shmem; with the posted patches the bytes are lost",
    memories=_GUEST,
)
def the_guest_does_not_zero_what_the_host_wrote(t: Thread, memory: Memory) -> None:
    u, area = t.registered(memory, MINOR)
    t.ok(Fallocate(area.fd, mman.FALLOC_FL_KEEP_SIZE, 0, PAGE))
    u.continue_(area.address, PAGE)
    t.write(area.address, b"host")
    expect(t.ok(GuestRead(area.fd, 0, 4)).data, b"host", "what the guest reads")
    expect(t.read(area.address, 4), b"host", "what the host reads")


@statement(
    244,
    "Poison and write protection are of the host's mapping: a guest reads and writes the page, no"
    " message is raised, and the protection stays.",
    since="next",
    source=_PATCHED,
    memories=_GUEST,
)
def poison_and_protection_are_no_obstacle(t: Thread, memory: Memory) -> None:
    u, area = t.registered(memory, MISSING | WP, pages=2)
    u.poison(area.at(0), PAGE)
    u.copy(area.at(1), t.source(b"copy"), PAGE)
    u.writeprotect(area.at(1), PAGE)
    t.ok(GuestWrite(area.fd, 0, b"zero"))
    t.ok(GuestWrite(area.fd, PAGE, b"one!"))
    u.silent("the guest's stores")
    t.raises(Read(area.at(0), 1), SIGBUS)
    expect(t.protected(area.at(1)), True, "the protection of the host's mapping")
    expect(t.read(area.at(1), 4), b"one!", "what the host reads")


@statement(
    245,
    "KVM's own access, for an instruction that it emulates, goes by the host's mapping: it is a"
    " message, and COPY lets it go on with the copied bytes.",
    since="next",
    source=_PATCHED,
    memories=_GUEST,
)
def kvm_itself_waits_for_the_page(t: Thread, memory: Memory) -> None:
    u, area = t.registered(memory, MISSING)
    emulation = t.thread().blocks(KvmRead(area.address, 4))
    u.fault(area.address, 0)
    u.copy(area.address, t.source(b"copy"), PAGE)
    emulation.read(b"copy")


@statement(
    246,
    "Where the descriptor serves user mode alone (UFFD_USER_MODE_ONLY), KVM's own access fails with"
    " EFAULT at once and raises no message.",
    since="next",
    source=f"{_PATCHED}; userfaultfd(2)",
    memories=_GUEST,
)
def user_mode_alone_refuses_kvm(t: Thread, memory: Memory) -> None:
    flags = os.O_CLOEXEC | os.O_NONBLOCK | abi.UFFD_USER_MODE_ONLY
    u = Uffd(t, t.ok(Userfaultfd(flags)).value)
    t.ok(u.api(Feature(0)))
    area = t.map(memory)
    u.register(area.address, PAGE, MISSING)
    t.fails(KvmRead(area.address, 4), EFAULT)
    u.silent("the access of KVM")
    t.thread().blocks(Read(area.address, 1))
    u.fault(area.address, 0)


@statement(
    247,
    "A page that a guest makes its own leaves every mapping of its host, and a touch is SIGBUS with"
    " no message; shared again, it is there as it was.",
    since="next",
    source=_CONVERSION,
    memories=_GUEST,
)
def a_converted_page_leaves_the_host(t: Thread, memory: Memory) -> None:
    u, area = t.registered(memory, MISSING, pages=2)
    other = t.alias(area)
    for page in range(2):
        u.copy(area.at(page), t.source(b"copy"), PAGE)
    t.read(other.at(0))
    t.ok(GuestConvert(area.fd, 0, PAGE, private=True))
    for mapping in (area, other):
        expect(t.page(mapping.at(0)), EMPTY, "the entry")
        t.raises(Read(mapping.at(0), 1), SIGBUS)
    u.silent("the conversion and the touches")
    expect(t.ok(GuestRead(area.fd, 0, 4)).data, b"copy", "what the guest reads")
    expect(t.read(area.at(1), 4), b"copy", "the page beside it")
    t.ok(GuestConvert(area.fd, 0, PAGE, private=False))
    expect(t.read(area.at(0), 4), b"copy", "the page that is shared again")


@statement(
    248,
    "A page that is a guest's own is filled by nobody else: CONTINUE fails with EFAULT and COPY"
    " with ENOMEM, whenever its mapping was registered.",
    since="next",
    source=_CONVERSION,
    memories=_GUEST,
)
def a_converted_page_is_not_filled(t: Thread, memory: Memory) -> None:
    u, area = t.registered(memory, MISSING | MINOR, pages=2)
    t.ok(GuestWrite(area.fd, 0, b"mine"))
    t.ok(GuestConvert(area.fd, 0, 2 * PAGE, private=True))
    u.continue_(area.at(0), PAGE, fails=EFAULT)
    u.copy(area.at(1), t.source(), PAGE, fails=ENOMEM)
    u.zeropage(area.at(1), PAGE, fails=ENOMEM)
    for page in range(2):
        expect(t.page(area.at(page)), EMPTY, f"entry {page}")
    t.ok(GuestConvert(area.fd, 0, 2 * PAGE, private=False))
    u.continue_(area.at(0), PAGE)
    u.copy(area.at(1), t.source(b"copy"), PAGE)
    expect(t.read(area.at(0), 4), b"mine", "the guest's page, shared again")


@statement(
    249,
    "A hole punched into a guest_memfd takes the page from its guest, too: the next touch of the"
    " guest makes one of zeros, which the host does not miss.",
    since="next",
    source=_PATCHED,
    memories=_GUEST,
)
def a_hole_takes_the_page_from_the_guest(t: Thread, memory: Memory) -> None:
    u, area = t.registered(memory, MISSING)
    u.copy(area.address, t.source(b"copy"), PAGE)
    expect(t.ok(GuestRead(area.fd, 0, 4)).data, b"copy", "what the guest reads")
    t.ok(Madvise(area.address, PAGE, mman.MADV_REMOVE))
    expect(t.page(area.address), EMPTY, "the host's entry")
    expect(t.ok(GuestRead(area.fd, 0, 4)).data, bytes(4), "what the guest reads after the hole")
    expect(t.read(area.address, 4), bytes(4), "what the host reads")
    u.silent("the host's touch of a page that the guest has made")
