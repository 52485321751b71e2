"""The memory types as a table, and one memory as a caller asks for it.

No code above this room asks "is it shmem?".  It asks the traits here: does a shared mapping have
a page cache, can ZEROPAGE serve it.  A fifth type is one more entry (and, on the live side, one
more creation call).

Facts: userfaultfd(2), ioctl_userfaultfd(2); hugetlb refuses ZEROPAGE and MOVE, anonymous memory
has no minor faults: measured on 6.1, 6.12, 6.18, 7.2 and 7.3.
"""

from __future__ import annotations

import enum

import msgspec

from userfault.kernel.errors import UsageError
from userfault.kernel.numbers import whole

KIB = 1 << 10
MIB = 1 << 20
GIB = 1 << 30
BASE_PAGE = 4 * KIB


class MemoryType(enum.Enum):
    """The kinds of memory that Linux's userfaultfd tells apart."""

    ANON = "anon"
    SHMEM = "shmem"
    HUGETLB = "hugetlb"
    GUEST_MEMFD = "guest_memfd"


class Traits(msgspec.Struct, frozen=True):
    """What userfaultfd can do with a memory type on the kernels that support it at all."""

    page_sizes: tuple[int, ...]  # bytes; the first is the default
    shareable: bool  # can be mapped MAP_SHARED with a descriptor behind it
    private: bool  # can be mapped MAP_PRIVATE
    zeropage: bool  # UFFDIO_ZEROPAGE works
    movable: bool  # UFFDIO_MOVE works
    # UFFDIO_COPY may say EEXIST when in truth no page could be allocated (hugetlb, since 6.18)
    exists_is_ambiguous: bool = False


TRAITS: dict[MemoryType, Traits] = {
    MemoryType.ANON: Traits((BASE_PAGE,), False, True, True, True),
    MemoryType.SHMEM: Traits((BASE_PAGE,), True, True, True, False),
    MemoryType.HUGETLB: Traits((2 * MIB, GIB), True, True, False, False, True),
    MemoryType.GUEST_MEMFD: Traits((BASE_PAGE,), True, False, True, False),
}


class Memory(msgspec.Struct, frozen=True):
    """One memory as a caller asks for it: type, page size in bytes, shared or private.

    Raises `UsageError` for a combination that does not exist on any kernel.
    """

    type: MemoryType
    page_size: int
    shared: bool

    def __post_init__(self) -> None:
        traits = TRAITS[self.type]
        msgspec.structs.force_setattr(self, "page_size", whole("page_size", self.page_size))
        if self.page_size not in traits.page_sizes:
            sizes = ", ".join(size_name(size) for size in traits.page_sizes)
            raise UsageError(
                f"{self.type.value} memory has no pages of {self.page_size} bytes",
                cause=f"its page sizes are {sizes}",
                cure=f"pass page_size={traits.page_sizes[0]} or leave it out",
            )
        if not (traits.shareable if self.shared else traits.private):
            kind = "shared" if self.shared else "private"
            raise UsageError(
                f"{self.type.value} memory cannot be mapped {kind}",
                cause="the kernel has no such mapping",
                cure=f"ask for one of {', '.join(memory_names())}",
            )

    @property
    def traits(self) -> Traits:
        """The row of the table for this type."""
        return TRAITS[self.type]

    @property
    def minor_faults(self) -> bool:
        """True where a page can be in the page cache and not mapped (a minor fault)."""
        return self.traits.shareable

    @property
    def name(self) -> str:
        """The name that `memory()` takes, as `shmem` or `hugetlb-private`."""
        if self.traits.shareable and not self.shared:
            return f"{self.type.value}-private"
        return self.type.value

    def __str__(self) -> str:
        return f"{self.name} ({size_name(self.page_size)} pages)"


def memory(name: str | Memory, page_size: int | None = None) -> Memory:
    """The memory called `name`, with pages of `page_size` bytes (default: the type's first).

    >>> str(memory("hugetlb"))
    'hugetlb (2 MiB pages)'
    """
    if isinstance(name, Memory):
        return name
    base, dash, kind = str(name).partition("-")
    try:
        kind_of = MemoryType(base)
    except ValueError:
        kind_of = None
    if kind_of is None or (dash and kind != "private"):
        raise UsageError(
            f"no memory type is called {name!r}",
            cause="the name is not in the table",
            cure=f"use one of {', '.join(memory_names())}",
        )
    traits = TRAITS[kind_of]
    shared = traits.shareable and kind != "private"
    return Memory(kind_of, traits.page_sizes[0] if page_size is None else page_size, shared)


def memory_names() -> list[str]:
    """Every name that `memory()` takes."""
    found = []
    for kind, traits in TRAITS.items():
        found.append(kind.value)
        if traits.shareable and traits.private:
            found.append(f"{kind.value}-private")
    return found


def size_name(size: int) -> str:
    """`size` bytes in the largest unit that divides it: 4096 is `4 KiB`."""
    for unit, name in ((GIB, "GiB"), (MIB, "MiB"), (KIB, "KiB")):
        if size and size % unit == 0:
            return f"{size // unit} {name}"
    return f"{size} B"


def round_up(value: int, step: int) -> int:
    """The smallest multiple of `step` that is not below `value`."""
    return -(-value // step) * step
