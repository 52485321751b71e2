"""The keeper of shared copies that a test has to itself, and what may be seen of it."""

from __future__ import annotations

import os
import socket
from pathlib import Path

from helpers.waiting import wait_until
from userfault.linux import pidfd
from userfault.pager.drivers.shared import place


def keeper() -> int:
    """The process id of the keeper that runs in USERFAULT_RUNTIME_DIR."""
    with place.folder() as folder, socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as channel:
        channel.connect(place.path_in(folder, place.SOCKET))
        return pidfd.peer(channel)


def copies(pid: int) -> int:
    """How many copies a keeper holds."""
    maps = Path(f"/proc/{pid}/maps").read_text().splitlines()
    return sum("memfd:userfault-copy" in line for line in maps)


def ended(pid: int) -> None:
    """Wait until a process is gone: the keeper is nobody's child here."""
    wait_until(lambda: not Path(f"/proc/{pid}/cmdline").exists() or not _runs(pid))


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes() != b""
    except OSError:
        return False


def of_mapping(address: int) -> dict[str, int]:
    """What smaps tells of the mapping that begins at `address`, in bytes (proc(5))."""
    found: dict[str, int] = {}
    ours = False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        first = line.split(maxsplit=1)[0]
        if "-" in first:
            ours = int(first.split("-")[0], 16) == address
        elif ours and line.endswith(" kB"):
            found[first.rstrip(":")] = int(line.split()[1]) << 10
    return found


def inherit(folder: Path) -> None:
    """Have processes that are started use this folder."""
    os.environ[place.VARIABLE] = str(folder)
