"""UFFDIO_COPY: what it does, its arguments, its source."""

from __future__ import annotations

from errno import EAGAIN, EEXIST, EFAULT, EINVAL, ENOENT

from userfault.check.words.flags import UNDEFINED_MODE
from userfault.check.words.outcome import expect
from userfault.check.words.scenes import (
    EMPTY,
    copied,
    mapped_as,
    pattern,
    sleeping_copy,
)
from userfault.check.words.statement import ALL, statement
from userfault.check.words.thread import Thread
from userfault.check.words.uffd import MISSING, UNTOUCHED
from userfault.kernel import calls
from userfault.kernel.calls import (
    PAGE,
    Ioctl,
    Munmap,
    Read,
)
from userfault.kernel.memtypes import Memory
from userfault.uapi import mman
from userfault.uapi import userfaultfd as abi

_MAN = "ioctl_userfaultfd(2)"
_MEASURED = "measured on 6.1 to 7.3"
_MODE_WP = abi.UFFDIO_COPY_MODE_WP


# --- What it does --------------------------------------------------------------------------------


@statement(
    49,
    "COPY stores the length in `copy`, and the page is there with the bytes of the source, mapped"
    " exclusively.",
    since="4.3",
    source=f"{_MAN}; {_MEASURED}",
    memories=ALL,
)
def a_page_is_copied(t: Thread, memory: Memory) -> None:
    u, area = t.registered(memory, MISSING, pages=3)
    content = pattern(area.page)
    source = t.map("anon", pages=area.page // PAGE)
    t.write(source.address, content)
    u.copy(area.at(1), source.address, area.page)
    pages = [t.page(area.at(number)) for number in range(3)]
    expect(pages, [EMPTY, mapped_as(not memory.shared), EMPTY], "the page and its neighbours")
    expect(t.read(area.at(1), area.page) == content, True, "the page is the source")
    u.silent("a read of the page")


@statement(
    50,
    "COPY onto a page that is there fails with EEXIST, and the field is -EEXIST.",
    since="4.3",
    source=f"{_MAN}; {_MEASURED}",
    memories=ALL,
)
def an_occupied_page_is_refused(t: Thread, memory: Memory) -> None:
    u = t.uffd()
    area = t.map(memory, pages=2)
    t.write(area.at(0), b"touched")
    u.register(area.address, area.length, MISSING)
    source = t.source(b"s", area.page)
    u.copy(area.at(0), source, area.page, fails=EEXIST)
    expect(t.read(area.at(0), 7), b"touched", "the page that was touched")
    u.copy(area.at(1), source, area.page)
    u.copy(area.at(1), t.source(b"other", area.page), area.page, fails=EEXIST)
    expect(t.read(area.at(1), 5), b"sssss", "the page that was copied")


@statement(
    51,
    "COPY that meets an occupied page after the first one fails with EAGAIN, and `copy` says how"
    " many bytes were done; the next call, from there, shows the error.",
    since="4.3",
    source=f"{_MAN}; {_MEASURED}",
    memories=ALL,
)
def progress_hides_the_error(t: Thread, memory: Memory) -> None:
    u = t.uffd()
    area = t.map(memory, pages=4)
    t.write(area.at(2), b"there")
    u.register(area.address, area.length, MISSING)
    source = t.source(b"s", area.length)
    u.copy(area.address, source, area.length, fails=EAGAIN, field=2 * area.page)
    expect(t.read(area.at(1)), b"s", "the last page that was done")
    expect(t.page(area.at(3)), EMPTY, "the page after the occupied one")
    u.copy(area.at(2), source, 2 * area.page, fails=EEXIST)
    expect(t.page(area.at(3)), EMPTY, "the page after the occupied one")
    u.copy(area.at(3), source, area.page)


# --- Arguments -----------------------------------------------------------------------------------


@statement(
    52,
    "The source of COPY may be unaligned; the destination and the length may not.",
    since="4.11",
    source=f"{_MAN}; {_MEASURED}",
    memories=ALL,
)
def the_source_may_be_unaligned(t: Thread, memory: Memory) -> None:
    u, area = t.registered(memory, MISSING, pages=2)
    content = pattern(area.page + PAGE)
    source = t.map("anon", pages=area.page // PAGE + 1)
    t.write(source.address, content)
    for dst, length in ((area.address + 1, PAGE), (area.address, area.page - 1)):
        u.copy(dst, source.address, length, fails=EINVAL, field=UNTOUCHED)
    for number, offset in enumerate((1, PAGE - 1)):
        u.copy(area.at(number), source.address + offset, area.page)
        same = t.read(area.at(number), area.page) == content[offset : offset + area.page]
        expect(same, True, f"the page is the source from byte {offset}")


@statement(
    53,
    "COPY with a bad range leaves `copy` as it was.",
    since="4.3",
    source=_MEASURED,
    outcomes={
        "6.1": "a source outside of user addresses is EFAULT, as one that cannot be read",
        "since 6.12": "a source outside of user addresses is EINVAL",
    },
)
def a_bad_range_leaves_the_field(t: Thread) -> None:
    u, area = t.registered("anon", MISSING, pages=2)
    source, end = t.source(), t.task_size()
    for dst, src, length in (
        (area.address, source, 0),
        (area.address, source, PAGE + 1),
        (area.address + 1, source, PAGE),
        (end, source, PAGE),
        (area.address, source, -PAGE % (1 << 64)),
        (area.address, -PAGE % (1 << 64), PAGE),
    ):
        u.copy(dst, src, length, fails=EINVAL, field=UNTOUCHED)
    checked = t.since("6.12")
    for src in (end, end - 1):
        code, field = (EINVAL, UNTOUCHED) if checked else (EFAULT, -EFAULT)
        u.copy(area.address, src, PAGE, fails=code, field=field)
    expect(t.page(area.address), EMPTY, "the page")


@statement(
    54,
    "COPY with an undefined mode fails with EINVAL and leaves `copy` as it was; MODE_WP where WP is"
    " not registered fails with EINVAL and `copy` is -EINVAL.",
    since="5.7",
    source=f"{_MAN}; {_MEASURED}",
    memories=ALL,
)
def a_mode_must_be_known_and_registered(t: Thread, memory: Memory) -> None:
    u = t.uffd()
    area = t.map(memory)
    source = t.source(b"s", area.page)
    # That nothing is registered is seen before the mode.
    u.copy(area.address, source, area.page, _MODE_WP, fails=ENOENT)
    u.register(area.address, area.length, MISSING)
    u.copy(area.address, source, area.page, UNDEFINED_MODE, fails=EINVAL, field=UNTOUCHED)
    u.copy(area.address, source, area.page, _MODE_WP, fails=EINVAL)
    expect(t.page(area.address), EMPTY, "the page")


@statement(
    55,
    "COPY to where nothing is registered, nothing is mapped, or past the end of the mapping fails"
    " with ENOENT.",
    since="4.11",
    source=f"{_MAN}; {_MEASURED}",
    memories=ALL,
)
def the_destination_must_be_registered(t: Thread, memory: Memory) -> None:
    u = t.uffd()
    area = t.map(memory, pages=3)
    u.register(area.address, 2 * area.page, MISSING)
    t.ok(Munmap(area.at(1), area.page))
    source = t.source(b"s", 2 * area.page)
    u.copy(area.at(2), source, area.page, fails=ENOENT)  # not registered
    u.copy(area.at(1), source, area.page, fails=ENOENT)  # not mapped
    u.copy(area.at(0), source, 2 * area.page, fails=ENOENT)  # only its first half is
    expect((t.page(area.at(0)), t.page(area.at(2))), (EMPTY, EMPTY), "the pages")
    u.copy(area.at(0), source, area.page)


@statement(
    56,
    "One COPY does not cross a border between mappings, as mprotect(2) makes one.",
    since="4.3",
    source=_MEASURED,
    memories=ALL,
)
def one_call_is_for_one_mapping(t: Thread, memory: Memory) -> None:
    u, area = t.registered(memory, MISSING, pages=2)
    t.ok(calls.Mprotect(area.at(1), area.page, mman.PROT_READ))
    source = t.source(b"s", area.length)
    u.copy(area.address, source, area.length, fails=ENOENT)
    expect((t.page(area.at(0)), t.page(area.at(1))), (EMPTY, EMPTY), "the pages")
    for number in range(2):
        u.copy(area.at(number), source, area.page)


@statement(
    57,
    "COPY fills a mapping that may not be written, or not even read.",
    since="4.3",
    source=_MEASURED,
    memories=ALL,
)
def the_protection_of_the_destination_does_not_matter(t: Thread, memory: Memory) -> None:
    u = t.uffd()
    source = t.source(b"s", memory.page_size)
    for protection in (mman.PROT_READ, mman.PROT_NONE):
        area = t.map(memory, prot=protection)
        u.register(area.address, area.length, MISSING)
        u.copy(area.address, source, area.page)
        t.ok(calls.Mprotect(area.address, area.length, mman.PROT_READ))
        expect(t.read(area.address, 8), b"s" * 8, "the page")


@statement(
    58,
    "COPY through another descriptor of the process fills the page, but who waits is woken only by"
    " the descriptor that the range is registered with.",
    since="4.11",
    source=_MEASURED,
    memories=ALL,
)
def another_descriptor_fills_but_does_not_wake(t: Thread, memory: Memory) -> None:
    owner, other = t.uffd(), t.uffd()
    area = t.map(memory)
    owner.register(area.address, area.length, MISSING)
    reader = t.thread().blocks(Read(area.address, 1))
    other.copy(area.address, t.source(b"s", area.page), area.page)
    reader.still("a COPY through another descriptor")
    other.wake(area.address, area.length)
    reader.still("a WAKE through another descriptor")
    owner.wake(area.address, area.length)
    reader.read(b"s")


@statement(
    75,
    "COPY, ZEROPAGE, CONTINUE, POISON and MOVE with a null argument fail with EFAULT.",
    since="4.3",
    source=_MEASURED,
)
def a_null_argument_is_efault(t: Thread) -> None:
    u = t.uffd()
    requests = [abi.UFFDIO_COPY, abi.UFFDIO_ZEROPAGE, abi.UFFDIO_CONTINUE]
    if t.since("6.8"):
        requests += [abi.UFFDIO_POISON, abi.UFFDIO_MOVE]
    for request in requests:
        t.fails(Ioctl(u.fd, request, 0), EFAULT)


# --- The source ----------------------------------------------------------------------------------


@statement(
    59,
    "COPY from memory that cannot be read fails with EFAULT; if that begins at the second page,"
    " with EAGAIN, and `copy` is one page.",
    since="4.3",
    source=_MEASURED,
    memories=ALL,
)
def the_source_must_be_readable(t: Thread, memory: Memory) -> None:
    u, area = t.registered(memory, MISSING, pages=2)
    source = t.source(b"s", area.length)
    t.ok(Munmap(source + area.page, area.page))
    u.copy(area.address, source + area.page, area.page, fails=EFAULT)
    u.copy(area.address, source + 1, area.page, fails=EFAULT)  # its last byte alone
    expect(t.page(area.address), EMPTY, "the page after two failures")
    t.ok(calls.Mprotect(source, area.page, mman.PROT_NONE))
    u.copy(area.address, source, area.page, fails=EFAULT)
    t.ok(calls.Mprotect(source, area.page, mman.PROT_READ))
    u.copy(area.address, source, area.length, fails=EAGAIN, field=area.page)
    expect(t.read(area.at(0)), b"s", "the first page")
    expect(t.page(area.at(1)), EMPTY, "the second page")


@statement(
    60,
    "COPY whose source is missing in a registered range raises a message and sleeps; once it is"
    " resolved, the COPY is completed.",
    since="4.3",
    source=_MEASURED,
    memories=ALL,
)
def the_source_may_be_missing_itself(t: Thread, memory: Memory) -> None:
    u, area = t.registered(memory, MISSING)
    asleep = sleeping_copy(t, u, area.address, area.page)
    expect(t.page(area.address), EMPTY, "the destination meanwhile")
    expect(copied(asleep.resolve()), area.page, "`copy`")
    expect(t.read(area.address), b"h", "the destination")
