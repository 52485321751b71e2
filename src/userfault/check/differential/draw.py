"""Random programs: a beginning that makes sense, then anything.

The beginning maps some areas and registers most of them, so that most of what follows means
something; everything else may be good or bad.  Every choice is a number below another one, made
by whoever is asked: `random.Random` here, Hypothesis in the tests.  0 is the simplest choice.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias, TypeVar

from userfault.check.differential.areas import AREAS, FILES, PARTS
from userfault.check.differential.program import Argument, Pages, Program, Spot, Step
from userfault.check.differential.verbs import NONBLOCK
from userfault.uapi import mman
from userfault.uapi import userfaultfd as abi
from userfault.uapi.ioc import io

_SYNTHETIC = ("null", "top")
# Areas by weight: guest_memfd needs a virtual machine each time, and ends at its registration.
_USUAL = tuple(
    name
    for name, weight in {
        "anon": 6, "shm": 6, "priv": 4, "alias": 3, "huge": 4, "hugepriv": 3, "hugealias": 2,
        "hugeanon": 2, "edge": 2, "shanon": 2, "disk": 2, "dst": 4, "drop": 1, "thp": 4,
    }.items()
    for _ in range(weight)
)  # fmt: skip
_FEATURES = (
    0,
    abi.UFFD_FEATURE_EVENT_FORK,
    abi.UFFD_FEATURE_EVENT_REMAP,
    abi.UFFD_FEATURE_EVENT_REMOVE,
    abi.UFFD_FEATURE_EVENT_UNMAP,
    abi.UFFD_FEATURE_SIGBUS,
    abi.UFFD_FEATURE_THREAD_ID,
    abi.UFFD_FEATURE_EXACT_ADDRESS,
    abi.UFFD_FEATURE_WP_UNPOPULATED,
    abi.UFFD_FEATURE_WP_ASYNC,
)
_MODES = (1, 1, 2, 3, 3, 3, 4, 5, 6, 7, 7)
# With RWP; WP and RWP exclude each other, and RWP_ASYNC needs RWP.
_RWP_FEATURES = (
    abi.UFFD_FEATURE_RWP,
    abi.UFFD_FEATURE_RWP,
    abi.UFFD_FEATURE_RWP,
    abi.UFFD_FEATURE_RWP | abi.UFFD_FEATURE_RWP_ASYNC,
    abi.UFFD_FEATURE_RWP_ASYNC,
)
_RWP_MODES = (*_MODES, 8, 8, 8, 9, 9, 9, 9, 12, 13, 10)
_ADVICE = (
    mman.MADV_DONTNEED, mman.MADV_DONTNEED, mman.MADV_REMOVE, mman.MADV_REMOVE,
    mman.MADV_POPULATE_READ, mman.MADV_POPULATE_WRITE, mman.MADV_DONTFORK, mman.MADV_DOFORK,
    mman.MADV_WIPEONFORK, mman.MADV_KEEPONFORK, mman.MADV_GUARD_INSTALL,
    mman.MADV_GUARD_REMOVE, mman.MADV_DONTNEED_LOCKED, 9999,
)  # fmt: skip
# Of memory that may have huge pages; elsewhere whether there are any is up to the administrator.
_THP_ADVICE = (
    *_ADVICE, mman.MADV_DONTNEED, mman.MADV_COLLAPSE, mman.MADV_COLLAPSE, mman.MADV_COLLAPSE,
    mman.MADV_HUGEPAGE, mman.MADV_NOHUGEPAGE,
)  # fmt: skip
_MOVE = mman.MREMAP_MAYMOVE | mman.MREMAP_FIXED
_REQUESTS = (abi.UFFDIO_COPY, abi.UFFDIO_API, abi.UFFDIO_WAKE, io(abi.UFFDIO, 0x30), 0)
_SCANS = (0, 1, 2, 3)  # PM_SCAN_WP_MATCHING, PM_SCAN_CHECK_WPASYNC

EVERY_FEATURE = (1 << 64) - 1

Choose: TypeAlias = Callable[[int], int]
_T = TypeVar("_T")
_STEPS = 28  # at most, after the beginning


class _Drawer:
    """Draws the arguments of steps, about the areas of one program."""

    def __init__(self, choose: Choose, names: tuple[str, ...], *, rwp: bool, features: int) -> None:
        self.number = choose
        self.features = features
        self.modes = _RWP_MODES if rwp else _MODES
        self.rwp = rwp
        self._names = names

    def of(self, *values: _T) -> _T:
        return values[self.number(len(values))]

    def rarely(self, chance: int) -> bool:
        """True once in `chance` times; shrinks to False."""
        return self.number(chance) == chance - 1

    def area(self) -> str:
        if self.rarely(25):
            return self.of(*_SYNTHETIC, *AREAS)
        return self.of(*self._names)

    def spot(self, name: str | None = None) -> Spot:
        area = AREAS[name or self.area()]
        # One beyond the end, and now and then not at the start of a page.
        page = self.number(area.pages + 1)
        extra = self.of(0x200, 1, area.page // 2) if self.rarely(25) else 0
        return Spot(area.name, page, extra)

    def range(self, name: str | None = None) -> tuple[Spot, Pages]:
        spot = self.spot(name)
        return spot, self.length(spot)

    def length(self, spot: Spot) -> Pages:
        if self.rarely(25):
            return Pages(self.number(2), self.of(0x200, 1))
        whole = spot.of.pages
        return Pages(self.of(1, 1, 1, 2, 3, whole, whole - spot.page, 0))

    def file(self) -> str:
        if self.rarely(20):
            return self.of(*(name for name in FILES if name != "d"))
        # A hole of an ordinary file is filled by readahead, which nobody promises anything about.
        files = [AREAS[name].file for name in self._names if AREAS[name].file not in ("", "d")]
        return self.of(*(files or ["m"]))

    def uffd(self) -> str:
        return self.of("u0", "u0", "u0", "u0", "u0", "u1", "f0")

    def who(self) -> tuple[int, int]:
        if self.rarely(6):
            return 1 + self.number(2), self.number(2)
        return 0, self.number(3)


def _madvise(d: _Drawer) -> tuple[Argument, ...]:
    spot, length = d.range()
    return spot, length, d.of(*(_THP_ADVICE if spot.of.memory == "thp" else _ADVICE))


def _load(d: _Drawer) -> tuple[Argument, ...]:
    spot = d.spot()
    return (spot, d.length(spot)) if d.rarely(5) else (spot,)


def _copy(d: _Drawer) -> tuple[Argument, ...]:
    to, length = d.range()
    source = d.spot("src") if to.of.page == AREAS["src"].page else d.spot()
    if d.rarely(8):
        source = d.spot()
    return (d.uffd(), to, source, length, d.of(0, 0, 0, 0, 1, 2, 2, 3, 4))


def _move(d: _Drawer) -> tuple[Argument, ...]:
    to, length = d.range()
    source = d.spot(str(d.of("src", to.area, d.area())))
    return (d.uffd(), to, source, length, d.of(0, 0, 1, 2, 2, 3, 4))


def _mremap(d: _Drawer) -> tuple[Argument, ...]:
    spot, length = d.range()
    new = length if d.rarely(2) else d.length(spot)
    flags = d.of(_MOVE, _MOVE, _MOVE, _MOVE | mman.MREMAP_DONTUNMAP, 0, mman.MREMAP_FIXED)
    to = d.spot(str(d.of("dst", d.area())))
    return (spot, length, new, flags, to)


def _fill(*modes: int) -> Callable[[_Drawer], tuple[Argument, ...]]:
    return lambda d: (d.uffd(), *d.range(), d.of(*modes))


def _file_range(d: _Drawer) -> tuple[Argument, ...]:
    extra = 100 if d.rarely(10) else 0
    file = d.file()
    longest = 2 if file == "h" else 8  # of huge pages no more than the pool has
    return (file, Pages(d.number(longest + 1)), Pages(d.of(1, 1, 2, longest), extra))


_MAPPABLE = tuple(
    name for name in AREAS if name not in (*_SYNTHETIC, *PARTS.values()) and name != "gmem"
)
# Weight and arguments of each kind of step.
_KINDS: dict[str, tuple[int, Callable[[_Drawer], tuple[Argument, ...]]]] = {
    "load": (14, _load),
    "store": (14, lambda d: (d.spot(),)),
    "events": (14, lambda d: (d.uffd(), d.of(16, 16, 16, 1, 2))),
    "copy": (10, _copy),
    "zeropage": (5, _fill(0, 0, 0, 1, 2)),
    "continue": (7, _fill(0, 0, 0, 1, 2, 3, 4)),
    "poison": (4, _fill(0, 0, 0, 1, 2)),
    "move": (6, _move),
    "writeprotect": (9, _fill(0, 0, 1, 1, 1, 2, 3, 4)),
    "wake": (3, lambda d: (d.uffd(), *d.range())),
    "register": (5, lambda d: (d.uffd(), *d.range(), d.of(*d.modes, 0, 8, 16))),
    "unregister": (3, lambda d: (d.uffd(), *d.range())),
    "madvise": (8, _madvise),
    "mprotect": (3, lambda d: (*d.range(), d.of(1, 3, 3, 0))),
    "munmap": (3, lambda d: d.range()),
    "replace": (2, lambda d: d.range()),
    "mremap": (5, _mremap),
    "mlock": (1, lambda d: d.range()),
    "munlock": (1, lambda d: d.range()),
    "mincore": (1, lambda d: d.range()),
    "scan": (4, lambda d: (*d.range(), d.of(*_SCANS), d.of(0, 1, 2, 4, 8, 16), d.of(0, 0, 1, 2))),
    "kload": (2, lambda d: ("k", d.spot())),
    "kstore": (2, lambda d: (d.of("m", "d"), d.spot())),
    "punch": (4, _file_range),
    "allocate": (2, _file_range),
    "truncate": (3, lambda d: (d.file(), Pages(d.number(9), 100 if d.rarely(8) else 0))),
    "pwrite": (2, lambda d: (d.file(), Pages(d.number(9)), 10)),
    "pread": (1, lambda d: (d.file(), Pages(d.number(9)), 10)),
    "poll": (1, lambda d: (d.uffd(),)),
    "request": (1, lambda d: (d.uffd(), d.of(*_REQUESTS))),
    "api": (1, lambda d: (d.uffd(), d.of(0, 0, 1 << 40), d.of(abi.UFFD_API, 0))),
    "map": (2, lambda d: (d.of(*_MAPPABLE),)),
    "close": (1, lambda d: (d.of("u0", "u1", "f0", "m", "v0"),)),
    "dup": (1, lambda d: (d.of("u0", "u1", "f0", "m"), "v0")),
    "fork": (3, lambda _: ()),
    "exit": (1, lambda _: ()),
}
_WEIGHTED = tuple(verb for verb, (weight, _) in _KINDS.items() for _ in range(weight))

_TOGGLES = (0, 0, abi.UFFD_FEATURE_RWP_ASYNC, abi.UFFD_FEATURE_RWP_ASYNC)
_BAD_TOGGLES = (abi.UFFD_FEATURE_RWP, abi.UFFD_FEATURE_WP_ASYNC, 1 << 40)


def _setmode(d: _Drawer) -> tuple[Argument, ...]:
    toggles = (*_TOGGLES, *_BAD_TOGGLES) if d.rarely(8) else _TOGGLES
    return d.uffd(), d.of(*toggles), d.of(*toggles)


# What kernels have since 7.3.
_RWP_KINDS: dict[str, tuple[int, Callable[[_Drawer], tuple[Argument, ...]]]] = {
    **_KINDS,
    "rwprotect": (14, _fill(0, 0, 1, 1, 1, 1, 2, 3, 4)),
    "setmode": (4, _setmode),
    "scan": (6, lambda d: (*d.range(), d.of(*_SCANS), d.of(0, 2, 8, 0x200, 0x200), d.of(0, 0, 2))),
}
_RWP_WEIGHTED = tuple(verb for verb, (weight, _) in _RWP_KINDS.items() for _ in range(weight))


def _begin(d: _Drawer, names: tuple[str, ...]) -> list[Step]:
    """Descriptors, mappings, registrations."""
    features = 0
    for _ in range(d.number(4)):
        features |= d.of(*_FEATURES)
    if d.rwp and not d.rarely(4):
        features |= d.of(*_RWP_FEATURES)
    flags = NONBLOCK | (abi.UFFD_USER_MODE_ONLY if d.rarely(10) else 0)
    features &= d.features
    found = [Step(0, 0, "uffd", ("u0", flags)), Step(0, 0, "api", ("u0", features))]
    if d.rarely(4):
        found.append(Step(0, 0, "uffd", ("u1", NONBLOCK)))
        also = _RWP_FEATURES if d.rwp else ()
        found.append(Step(0, 0, "api", ("u1", d.of(*_FEATURES, *also) & d.features)))
    found.append(Step(0, 0, "map", ("src",)))
    for name in names:
        found.append(Step(0, 0, "map", (name,)))
        whole = Spot(name), Pages(AREAS[name].pages)
        if name in PARTS:
            found += _touched(d, name)
        elif d.rarely(5):
            found.append(Step(0, 0, "store", (Spot(name),)))
        modes = (*d.modes, 2, 2, 2) if name in PARTS else d.modes
        found.append(Step(0, 0, "register", (d.of("u0", "u0", "u0", "u1"), *whole, d.of(*modes))))
    return found


def _touched(d: _Drawer, name: str) -> list[Step]:
    """Huge pages of zeroes and others, from before the registration: MISSING would forbid them."""
    touches = ((), ("load",), ("store",), ("load", "store"))
    return [
        Step(0, 0, verb, (Spot(name, page),))
        for page in range(AREAS[name].pages)
        for verb in d.of(*touches)
    ]


def program(
    choose: Choose, *, huge: bool = True, rwp: bool = False, features: int = EVERY_FEATURE
) -> Program:
    """A random program; `choose(n)` gives a number below n.

    `huge`: with hugetlb memory.  `rwp`: for a kernel with RWP and UFFDIO_SET_MODE (7.3).
    `features`: what the handshake at the beginning may ask for.
    """
    usual = _USUAL if huge else tuple(n for n in _USUAL if "hugetlb" not in AREAS[n].memory)
    chosen = [usual[choose(len(usual))] for _ in range(1 + choose(4))]
    if choose(50) == 49:
        chosen.append("gmem")
    names = tuple(dict.fromkeys(chosen))
    parts = tuple(PARTS[name] for name in names if name in PARTS)
    d = _Drawer(choose, (*names, *parts), rwp=rwp, features=features)
    kinds, weighted = (_RWP_KINDS, _RWP_WEIGHTED) if rwp else (_KINDS, _WEIGHTED)
    steps = _begin(d, names)
    for _ in range(choose(_STEPS + 1)):
        verb = d.of(*weighted)
        process, task = d.who()
        steps.append(Step(process, task, verb, kinds[verb][1](d)))
    for name in names:
        if name in PARTS:  # which entries are huge, no look tells
            steps.append(Step(0, 0, "scan", (Spot(name), Pages(AREAS[name].pages), 0, 0, 0)))
    return tuple(steps)
