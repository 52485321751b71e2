"""The mappings of a process: /proc/PID/maps (proc_pid_maps(5))."""

from __future__ import annotations

import re
from collections.abc import Iterator

import msgspec

from userfault.uapi import mman

_ESCAPED = re.compile(r"\\(\d{3})")
# Files that are memory and have no other place: memfds, shared anonymous memory, System V's.
_MEMORY = ("/memfd:", "/dev/zero (deleted)", "/SYSV", "/anon_hugepage", "/dev/shm/")
_MEMORY_FILE_SYSTEMS = ("tmpfs", "hugetlbfs", "ramfs")


class Mapping(msgspec.Struct, frozen=True):
    """[`start`, `end`) of a process.  `device` ("major:minor") and `inode` are those of the file.

    `offset`: where in the file it begins, bytes.  `name`: a path, `[heap]` and so on, or nothing.
    """

    start: int
    end: int
    permissions: str  # as "rw-p"
    offset: int
    device: str
    inode: int
    name: str

    @property
    def length(self) -> int:
        """In bytes."""
        return self.end - self.start

    @property
    def shared(self) -> bool:
        """Writes are seen by others who map the same."""
        return self.permissions[3] == "s"

    @property
    def protection(self) -> int:
        """PROT_* bits."""
        bits = (mman.PROT_READ, mman.PROT_WRITE, mman.PROT_EXEC)
        return sum(bit for bit, flag in zip(bits, self.permissions, strict=False) if flag != "-")


def mappings(pid: int) -> list[Mapping]:
    """All of them, in the order of their addresses; empty for a kernel thread.

    Raises OSError: ESRCH when the process has ended, EACCES without ptrace access to it.
    """
    # A name is whatever bytes the path has.
    with open(f"/proc/{pid}/maps", encoding="utf-8", errors="replace") as file:
        return list(parsed(file))


def parsed(lines: Iterator[str]) -> Iterator[Mapping]:
    """The lines of a file `maps`."""
    for line in lines:
        addresses, permissions, offset, device, inode, *rest = line.rstrip("\n").split(maxsplit=5)
        start, end = (int(part, 16) for part in addresses.split("-"))
        name = _ESCAPED.sub(lambda found: chr(int(found[1], 8)), rest[0]) if rest else ""
        yield Mapping(start, end, permissions, int(offset, 16), device, int(inode), name)


def is_memory_file(mapping: Mapping, memory_devices: frozenset[str]) -> bool:
    """Whether what is mapped is a file that lives in memory alone."""
    return bool(mapping.inode) and (
        mapping.name.startswith(_MEMORY) or mapping.device in memory_devices
    )


def memory_devices(pid: int) -> frozenset[str]:
    """The devices ("major:minor", as maps writes them) of tmpfs and hugetlbfs that `pid` sees."""
    found = set()
    with open(f"/proc/{pid}/mountinfo", encoding="utf-8", errors="replace") as file:
        for line in file:
            mounted, _, kind = line.partition(" - ")
            if kind.split()[0] in _MEMORY_FILE_SYSTEMS:
                major, minor = map(int, mounted.split()[2].split(":"))
                found.add(f"{major:02x}:{minor:02x}")
    return frozenset(found)
