"""The words of the prompt: a superset of the steps of random programs, for people.

A step of a program is written as in `check/differential/program.py`; here what can be guessed may
be left out, and numbers have names: `register anon missing` is `0 register u0 anon+0 8p 1`.
"""

from __future__ import annotations

from enum import Enum

import msgspec

from userfault.check.differential.verbs import VERBS
from userfault.kernel.modes import Feature, Mode
from userfault.uapi import mman
from userfault.uapi import userfaultfd as abi

Names = dict[str, int]


class Part(Enum):
    """What an argument of a verb can be; docs/prompt.md has the grammar."""

    UFFD = "uffd"  # u0, f0 (came with a FORK event), v0; u0 where there is none
    FILE = "descriptor"  # any name of a descriptor
    AREA = "area"
    SPOT = "address"  # anon, anon+2, anon+2+512
    SOURCE = "source"  # an address, else the same page of `src`
    LENGTH = "length"  # 3p, 3p+512; else a page, and of an area without +N all of it
    FILE_SPOT = "file address"  # of the file behind it; else a file and a length
    FILE_SIZE = "area or file"  # else a file
    FLAGS = "flags"  # names or a number, joined by | or spaces
    REST = "arguments"  # as programs have it


OPTIONAL = frozenset({Part.UFFD, Part.SOURCE, Part.LENGTH})


def _named(prefix: str) -> Names:
    return {
        name.removeprefix(prefix).lower(): value
        for name, value in vars(mman).items()
        if name.startswith(prefix)
    }


_MODES: Names = {str(mode.name).lower(): int(mode) for mode in Mode}
_FEATURES: Names = {str(feature.name).lower(): int(feature) for feature in Feature}
_DONTWAKE: Names = {"dontwake": abi.UFFDIO_COPY_MODE_DONTWAKE}
_FILL: Names = {**_DONTWAKE, "wp": abi.UFFDIO_COPY_MODE_WP}
_MOVE: Names = {**_DONTWAKE, "allow_src_holes": abi.UFFDIO_MOVE_MODE_ALLOW_SRC_HOLES}
_WAKES: Names = {"dontwake": abi.UFFDIO_WRITEPROTECT_MODE_DONTWAKE}
_PROT: Names = {"none": 0, "r": mman.PROT_READ, "w": mman.PROT_WRITE, "rw": 3}
_ADVICE = _named("MADV_")
_REMAP = _named("MREMAP_")


class Verb(msgspec.Struct, frozen=True):
    """One verb: `verb` of programs, what follows it, and the numbers that have names.

    `default`: the flags where none are given; `always`: those that are set in any case.
    """

    name: str
    verb: str
    parts: tuple[Part, ...]
    about: str
    names: Names = {}
    default: int | None = 0
    always: int = 0

    @property
    def usage(self) -> str:
        """As `register [UFFD] ADDRESS [LENGTH] FLAGS`."""
        words = [self.name]
        for part in self.parts:
            word = part.value.upper().replace(" ", "-")
            optional = part in OPTIONAL or (part is Part.FLAGS and self.default is not None)
            words.append(f"[{word}]" if optional else word)
        return " ".join(words)


_R = (Part.SPOT, Part.LENGTH)
_UR = (Part.UFFD, *_R)
_F = Part.FLAGS
_FROM = (Part.UFFD, Part.SPOT, Part.SOURCE, Part.LENGTH, _F)
GUEST = ("read", "write", "kvm", "private", "shared")
_GUEST: Names = {name: number for number, name in enumerate(GUEST)}

_ALL = (
    Verb("map", "map", (Part.AREA, _F), "map an area, and make the file behind it", _PROT, 3),
    Verb("open", "open", (Part.UFFD, _F), "a userfaultfd and its handshake", _FEATURES),
    Verb("register", "register", (*_UR, _F), "UFFDIO_REGISTER", _MODES, None),
    Verb("unregister", "unregister", _UR, "UFFDIO_UNREGISTER"),
    Verb("touch", "load", (Part.SPOT,), "the task reads 8 bytes"),
    Verb("read", "load", (Part.SPOT,), "the same; of a userfaultfd, its messages"),
    Verb("write", "store", (Part.SPOT,), "the task writes 8 bytes"),
    Verb("messages", "events", (Part.UFFD,), "read(2) of every message there is"),
    Verb("copy", "copy", _FROM, "UFFDIO_COPY", _FILL),
    Verb("zeropage", "zeropage", (*_UR, _F), "UFFDIO_ZEROPAGE", _DONTWAKE),
    Verb("continue", "continue", (*_UR, _F), "UFFDIO_CONTINUE", _FILL),
    Verb("poison", "poison", (*_UR, _F), "UFFDIO_POISON", _DONTWAKE),
    Verb("move", "move", _FROM, "UFFDIO_MOVE", _MOVE),
    Verb("wake", "wake", _UR, "UFFDIO_WAKE"),
    Verb("wp", "writeprotect", (*_UR, _F), "UFFDIO_WRITEPROTECT: protect", _WAKES, 0, 1),
    Verb("unwp", "writeprotect", (*_UR, _F), "UFFDIO_WRITEPROTECT: lift it", _WAKES),
    Verb("rwp", "rwprotect", (*_UR, _F), "UFFDIO_RWPROTECT: protect (7.3)", _WAKES, 0, 1),
    Verb("unrwp", "rwprotect", (*_UR, _F), "UFFDIO_RWPROTECT: lift it (7.3)", _WAKES),
    Verb("madvise", "madvise", (*_R, _F), "madvise(2)", _ADVICE, None),
    Verb("mprotect", "mprotect", (*_R, _F), "mprotect(2)", _PROT, None),
    Verb("munmap", "munmap", _R, "munmap(2)"),
    Verb("replace", "replace", _R, "mmap(2) of fresh anonymous memory over what is there"),
    Verb("remap", "mremap", (*_R, Part.SPOT, _F), "mremap(2) to an address", _REMAP, 0, 3),
    Verb("mlock", "mlock", _R, "mlock(2)"),
    Verb("munlock", "munlock", _R, "munlock(2)"),
    Verb("punch", "punch", (Part.FILE_SPOT, Part.LENGTH), "a hole in the file behind"),
    Verb("allocate", "allocate", (Part.FILE_SPOT, Part.LENGTH), "fallocate(2) of the file behind"),
    Verb("truncate", "truncate", (Part.FILE_SIZE, Part.LENGTH), "ftruncate(2) of the file behind"),
    Verb("close", "close", (Part.FILE,), "close(2)"),
    Verb("fork", "fork", (), "fork(2): the tasks of the first child are c1.0, c1.1, ..."),
    Verb("guest", "guest", (_F, Part.SPOT), "a virtual machine that has this memory", _GUEST, None),
)
WORDS: dict[str, Verb] = {verb.name: verb for verb in _ALL} | {
    name: Verb(name, name, (Part.REST,), "as in programs")  # in no other way
    for name in VERBS
    if name not in {verb.name for verb in _ALL}
}
