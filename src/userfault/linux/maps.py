"""The mappings of a process: /proc/PID/maps (proc_pid_maps(5)).

A name in it is chosen by whoever made the file: any bytes but NUL and the line's end.  So it is
read as bytes and split at line feeds, and only what the kernel writes is taken for an escape.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator

import msgspec

from userfault.uapi import mman

_LINE = re.compile(
    rb"([0-9a-f]+)-([0-9a-f]+) ([r-][w-][x-][ps]) ([0-9a-f]+) ([0-9a-f]+:[0-9a-f]+) (\d+) *(.*)",
    re.DOTALL,
)
# Files that are memory and have no other place: memfds, shared anonymous memory, System V's.
_MEMORY = ("/memfd:", "/dev/zero (deleted)", "/SYSV", "/anon_hugepage", "/dev/shm/")
_MEMORY_FILE_SYSTEMS = (b"tmpfs", b"hugetlbfs", b"ramfs")


class Mapping(msgspec.Struct, frozen=True):
    """[`start`, `end`) of a process.  `device` ("major:minor") and `inode` are those of the file.

    `offset`: where in the file it begins, bytes.  `name`: a path, `[heap]` and so on, or nothing;
    what of it is not UTF-8 is as os.fsdecode() has it.
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
    with open(f"/proc/{pid}/maps", "rb") as file:
        return list(parsed(file.read()))


def parsed(data: bytes) -> Iterator[Mapping]:
    """What is in a file `maps`."""
    for line in data.split(b"\n"):
        if found := _LINE.fullmatch(line):
            start, end, permissions, offset, device, inode, name = found.groups()
            yield Mapping(
                int(start, 16),
                int(end, 16),
                permissions.decode(),
                int(offset, 16),
                device.decode(),
                int(inode),
                # seq_path() escapes the line feed here, and not even the backslash.
                os.fsdecode(name.replace(rb"\012", b"\n")),
            )


def is_memory_file(mapping: Mapping, memory_devices: frozenset[str]) -> bool:
    """Whether what is mapped is a file that lives in memory alone."""
    return bool(mapping.inode) and (
        mapping.name.startswith(_MEMORY) or mapping.device in memory_devices
    )


def memory_devices(pid: int) -> frozenset[str]:
    """The devices ("major:minor", as maps writes them) of tmpfs and hugetlbfs that `pid` sees."""
    return _devices(pid, _MEMORY_FILE_SYSTEMS)


def hugetlb_devices(pid: int) -> frozenset[str]:
    """Those of hugetlbfs alone."""
    return _devices(pid, (b"hugetlbfs",))


def _devices(pid: int, kinds: tuple[bytes, ...]) -> frozenset[str]:
    with open(f"/proc/{pid}/mountinfo", "rb") as file:
        return frozenset(_of_kinds(file.read(), kinds))


def _of_kinds(mountinfo: bytes, kinds: tuple[bytes, ...]) -> Iterator[str]:
    for line in mountinfo.split(b"\n"):
        # Names have no spaces here: the kernel escapes them (proc_pid_mountinfo(5)).
        mounted, separator, kind = line.partition(b" - ")
        if separator and kind.split(b" ")[0] in kinds:
            major, minor = map(int, mounted.split(b" ")[2].split(b":"))
            yield f"{major:02x}:{minor:02x}"
