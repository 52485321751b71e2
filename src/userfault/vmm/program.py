"""What a guest runs: a walk over its memory that reads, sums up and writes, as machine code.

It needs no stack, no interrupt and no exception: everything is in registers, so that it is the
same in kernel mode (CPL 0) and in user mode (CPL 3), and a CPU can be stopped, saved and moved
between any two instructions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import msgspec

from userfault.kernel.errors import UsageError
from userfault.kernel.memtypes import BASE_PAGE as PAGE
from userfault.kernel.numbers import one_of, whole

PORT = 0xE1  # OUT to it: the walk is over
WALK = 0  # where the programs begin in CODE
CRASH = 0x60

# Intel SDM volume 2; the operands as GNU as writes them with .intel_syntax.
_WALK = (
    "490fafd8",  # step:  imul rbx, r8      the next of the sequence: x = a x + c ...
    "4c01cb",  #         add  rbx, r9
    "4c21db",  #         and  rbx, r11     ... modulo a power of two
    "4839f3",  #         cmp  rbx, rsi     is it a page of the memory?
    "73f1",  #           jae  step
    "4889da",  #         mov  rdx, rbx     its address
    "48c1e20c",  #       shl  rdx, 12
    "4801fa",  #         add  rdx, rdi
    "41f6c201",  #       test r10b, 1      reads?
    "7411",  #           je   write
    "4c8b22",  #         mov  r12, [rdx]   the first two words into the sum
    "4c01e0",  #         add  rax, r12
    "4c8b6208",  #       mov  r12, [rdx + 8]
    "4c01e0",  #         add  rax, r12
    "48c1c007",  #       rol  rax, 7
    "41f6c202",  # write: test r10b, 2     writes?
    "7404",  #           je   next
    "48894a08",  #       mov  [rdx + 8], rcx   the number of this step
    "48ffc9",  # next:   dec  rcx
    "75c1",  #           jne  step
    "bae1000000",  #     mov  edx, PORT    done: tell whoever runs this machine
    "ee",  #             out  dx, al
    "ebb9",  #           jmp  step
)
_CRASH = ("0f0b",)  # ud2, which there is no handler for, nor for the fault of that: a triple fault

CODE = bytes.fromhex("".join(_WALK)).ljust(CRASH, b"\xcc") + bytes.fromhex("".join(_CRASH))

_WORD = (1 << 64) - 1
_READS, _WRITES = 1, 2
_SUM_TURNS = 7
# Multiplier and increment of drand48(3): modulo any power of two every number comes once.
_RANDOM = (0x5DEECE66D, 0xB)
PATTERNS = ("order", "random", "stride")


class Walk(msgspec.Struct, frozen=True):
    """`steps` touches of `pages` pages of 4 KiB from page `first` of the guest's memory.

    `pattern`: `order`; `random`; `stride`, each `stride` pages (an odd number) behind the last,
    around.  In `pages` steps each page comes once.  `steps`: by default as many as pages.  Of each
    page the first two words are added to a checksum (`read`), then its second word becomes the
    number of steps that were left (`write`).  `seed`: where the sequence begins.

    Raises UsageError for a walk that there is not.
    """

    pages: int
    first: int = 0
    steps: int | None = None
    pattern: str = "order"
    stride: int = 1
    read: bool = True
    write: bool = False
    seed: int | None = None

    def __post_init__(self) -> None:
        one_of("pattern", self.pattern, PATTERNS)
        for name in ("pages", "stride") if self.steps is None else ("pages", "stride", "steps"):
            if whole(name, getattr(self, name)) < 1:
                raise UsageError(f"a walk with {name}={getattr(self, name)}", cure="give 1 or more")
        if self.stride % 2 == 0:
            raise UsageError(
                f"a walk with stride={self.stride}",
                cause="around a power of two an even stride misses half of the pages",
                cure="give an odd number",
            )

    @property
    def count(self) -> int:
        """How many steps."""
        return self.pages if self.steps is None else self.steps

    @property
    def _mask(self) -> int:
        return (1 << (self.pages - 1).bit_length()) - 1

    @property
    def _sequence(self) -> tuple[int, int]:
        return _RANDOM if self.pattern == "random" else (1, self.stride)

    def registers(self, memory: int) -> dict[str, int]:
        """Those of a CPU that begins it; `memory`: the guest address of the memory's page 0."""
        multiplier, increment = self._sequence
        return {
            "rbx": self._mask if self.seed is None else self.seed & self._mask,
            "rcx": self.count,
            "rsi": self.pages,
            "rdi": memory + self.first * PAGE,
            "r8": multiplier,
            "r9": increment,
            "r10": _READS * self.read | _WRITES * self.write,
            "r11": self._mask,
        }

    def touched(self) -> Iterator[tuple[int, int]]:
        """(page, steps left) of each step, as the guest makes them."""
        multiplier, increment = self._sequence
        number = self._mask if self.seed is None else self.seed & self._mask
        for left in range(self.count, 0, -1):
            number = (number * multiplier + increment) & self._mask
            while number >= self.pages:
                number = (number * multiplier + increment) & self._mask
            yield self.first + number, left

    def checksum(self, words: Callable[[int], tuple[int, int]], start: int = 0) -> int:
        """What the guest sums up, where page P begins with the two `words(P)`."""
        total, written = start, dict[int, int]()
        for page, left in self.touched():
            if self.read:
                first, second = words(page)
                total = (total + first + written.get(page, second)) & _WORD
                total = (total << _SUM_TURNS | total >> (64 - _SUM_TURNS)) & _WORD
            if self.write:
                written[page] = left
        return total
