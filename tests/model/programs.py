"""Random programs for the model: memories, fills, protection, changes, drawn from one seed."""

from __future__ import annotations

import random

from userfault.kernel.calls import (
    HUGE,
    PAGE,
    Call,
    Fallocate,
    Fork,
    Ftruncate,
    Ioctl,
    Madvise,
    MemfdCreate,
    Mlock,
    Mmap,
    Mprotect,
    Mremap,
    Munmap,
    Pwrite,
    Read,
    ReadFd,
    Userfaultfd,
    Write,
    place,
)
from userfault.uapi import mman
from userfault.uapi import userfaultfd as abi
from userfault.uapi.layout import Layout

PAGES = 6
ANON, SHARED, PRIVATE, ALIAS = (place(at) for at in range(4))
SOURCE, HUGE_SHARED, HUGE_PRIVATE = place(4), place(6), place(7)
_AREAS = (ANON, SHARED, PRIVATE, ALIAS)
_NEW = mman.MAP_FIXED_NOREPLACE
_RW = mman.PROT_READ | mman.PROT_WRITE
_O_NONBLOCK = 0o4000


def ioctl(fd: int, request: int, layout: Layout, *values: int) -> Ioctl:
    return Ioctl(fd, request, layout.struct.pack(*values))


def setup(draw: random.Random) -> list[Call]:
    """Two userfaultfds (3, 5), a memfd (4), a hugetlb file (6), seven mappings, registrations."""
    features = 0
    for bit in (1, 2, 3, 6, 7, 11, 13, 15):
        if draw.random() < 0.2:
            features |= 1 << bit
    huge = mman.MFD_HUGETLB | mman.MFD_HUGE_2MB
    calls: list[Call] = [
        Userfaultfd(_O_NONBLOCK),
        ioctl(3, abi.UFFDIO_API, abi.uffdio_api, abi.UFFD_API, features, 0),
        MemfdCreate(),
        Ftruncate(4, PAGES * PAGE),
        Userfaultfd(_O_NONBLOCK),
        ioctl(5, abi.UFFDIO_API, abi.uffdio_api, abi.UFFD_API, 0, 0),
        MemfdCreate(huge),
        Ftruncate(6, 3 * HUGE),
        Mmap(ANON, PAGES * PAGE),
        Mmap(SHARED, PAGES * PAGE, _RW, mman.MAP_SHARED | _NEW, 4),
        Mmap(PRIVATE, PAGES * PAGE, _RW, mman.MAP_PRIVATE | _NEW, 4),
        Mmap(ALIAS, PAGES * PAGE, _RW, mman.MAP_SHARED | _NEW, 4),
        Mmap(SOURCE, 4 * PAGE),
        Write(SOURCE, b"A" * PAGE + b"B" * PAGE),
        Mmap(HUGE_SHARED, 3 * HUGE, _RW, mman.MAP_SHARED | _NEW, 6),
        Mmap(HUGE_PRIVATE, 2 * HUGE, _RW, mman.MAP_PRIVATE | _NEW, 6),
    ]
    for start, length in (
        (ANON, PAGES * PAGE),
        (SHARED, PAGES * PAGE),
        (PRIVATE, PAGES * PAGE),
        (HUGE_SHARED, 3 * HUGE),
        (HUGE_PRIVATE, 2 * HUGE),
    ):
        mode = draw.choice((1, 2, 3, 4, 5, 6, 7))
        calls.append(ioctl(3, abi.UFFDIO_REGISTER, abi.uffdio_register, start, length, mode, 0))
    return calls


def step(draw: random.Random) -> Call:
    """One more call, good or bad."""
    huge = draw.random() < 0.25
    size = HUGE if huge else PAGE
    base = draw.choice((HUGE_SHARED, HUGE_PRIVATE) if huge else _AREAS)
    page = draw.randrange(3 if huge else PAGES)
    start = base + page * size
    length = draw.choice((1, 1, 2, 3)) * size
    if draw.random() < 0.05:
        start += 512
    kinds = (_touch, _fill, _protect, _change, _file, _register)
    kind = draw.choices(kinds, (25, 25, 10, 20, 10, 10))[0]
    return kind(draw, start, length)


def _touch(draw: random.Random, start: int, length: int) -> Call:
    del length
    return draw.choice((Read(start, 8), Write(start, b"w"), ReadFd(draw.choice((3, 5)), 320)))


def _fill(draw: random.Random, start: int, length: int) -> Call:
    fd = draw.choice((3, 3, 3, 5))
    mode = draw.choice((0, 0, 0, 1, 2, 4))
    source = HUGE_SHARED if length >= HUGE else SOURCE + draw.choice((0, 100, PAGE))
    return draw.choice(
        (
            ioctl(fd, abi.UFFDIO_COPY, abi.uffdio_copy, start, source, length, mode, 0),
            ioctl(fd, abi.UFFDIO_ZEROPAGE, abi.uffdio_zeropage, start, length, mode, 0),
            ioctl(fd, abi.UFFDIO_CONTINUE, abi.uffdio_continue, start, length, mode, 0),
            ioctl(fd, abi.UFFDIO_POISON, abi.uffdio_poison, start, length, mode, 0),
            ioctl(3, abi.UFFDIO_MOVE, abi.uffdio_move, ANON, SOURCE, PAGE, mode & 2, 0),
        )
    )


def _protect(draw: random.Random, start: int, length: int) -> Call:
    mode = draw.choice((0, 1, 1, 2, 3))
    return ioctl(3, abi.UFFDIO_WRITEPROTECT, abi.uffdio_writeprotect, start, length, mode)


def _change(draw: random.Random, start: int, length: int) -> Call:
    advice = draw.choice((mman.MADV_DONTNEED, mman.MADV_REMOVE, mman.MADV_POPULATE_READ, 102, 103))
    fixed = mman.MREMAP_MAYMOVE | mman.MREMAP_FIXED
    flags = draw.choice((0, fixed, fixed | mman.MREMAP_DONTUNMAP))
    anon = mman.MAP_PRIVATE | mman.MAP_ANONYMOUS | mman.MAP_FIXED
    return draw.choice(
        (
            Madvise(start, length, advice),
            Mprotect(start, length, draw.choice((0, 1, 3))),
            Munmap(start, length),
            Mmap(start, length, _RW, anon),
            Mremap(start, length, length, flags, draw.choice(_AREAS)),
            Mlock(start, length),
            Fork(),
        )
    )


def _file(draw: random.Random, start: int, length: int) -> Call:
    del start
    fd, size = draw.choice(((4, PAGE), (6, HUGE)))
    offset = draw.randrange(3) * size
    punch = mman.FALLOC_FL_PUNCH_HOLE | mman.FALLOC_FL_KEEP_SIZE
    return draw.choice(
        (
            Fallocate(fd, draw.choice((0, punch)), offset, min(length, size)),
            Ftruncate(fd, draw.choice((1, 2, 3)) * size),
            Pwrite(fd, b"F" * 10, offset),
        )
    )


def _register(draw: random.Random, start: int, length: int) -> Call:
    if draw.random() < 0.4:
        return ioctl(3, abi.UFFDIO_UNREGISTER, abi.uffdio_range, start, length)
    mode = draw.choice((1, 2, 3, 4, 5, 7))
    return ioctl(3, abi.UFFDIO_REGISTER, abi.uffdio_register, start, length, mode, 0)
