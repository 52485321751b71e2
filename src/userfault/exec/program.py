"""Whether a library can be preloaded into a program, which ld.so(8) does silently or not at all.

A program that is static has no loader; one that gains rights by being started (set-user-ID,
capabilities of its file) ignores preloaded libraries of folders that are not the system's.
"""

from __future__ import annotations

import os
import shutil
import stat
import struct
import sys

from userfault.kernel.errors import UsageError
from userfault.kernel.names import shown

_HEAD = 1 << 12
_INTERPRETERS = 4  # a script whose interpreter is a script, and so on (execve(2))
_PT_INTERP = 3
_CLASS_64, _LITTLE, _BIG = 2, 1, 2
_CAPABILITIES = "security.capability"


def find(name: str) -> str:
    """The file of a program, as execvp(3) finds it.  Raises UsageError."""
    found = shutil.which(name)
    if found is None:
        raise UsageError(
            f"there is no program {shown(name)}",
            cause="no file of that name may be executed" + ("" if "/" in name else " in PATH"),
            cure="name it by its path",
        )
    return found


def check(path: str) -> None:
    """Raise UsageError where the library would not be loaded into the program at `path`."""
    for _ in range(_INTERPRETERS):
        head = _head(path)
        if not head.startswith(b"#!"):
            break
        path = os.fsdecode(head[2:].split(b"\n", 1)[0].split()[0])
    _check_rights(path)
    if head.startswith(b"\x7fELF"):
        _check_elf(path, head)


def _head(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read(_HEAD)
    except OSError:  # it may be executed and not read: nothing is known of it
        return b""


def _check_rights(path: str) -> None:
    """ld.so(8), secure-execution mode: LD_PRELOAD with a slash in it is ignored."""
    found = os.stat(path)
    gains = ""
    if found.st_mode & stat.S_ISUID and found.st_uid != os.geteuid():
        gains = "it is set-user-ID"
    elif found.st_mode & stat.S_ISGID and found.st_gid != os.getegid():
        gains = "it is set-group-ID"
    elif os.geteuid() and _CAPABILITIES in _attributes(path):
        gains = "its file has capabilities (getcap(8))"
    if gains:
        raise UsageError(
            f"{shown(path)} cannot be given lazy memory",
            cause=f"{gains}, and so the loader ignores preloaded libraries (ld.so(8))",
            cure="run `userfault exec` as the user that it would become, or a copy without",
        )


def _attributes(path: str) -> list[str]:
    try:
        return os.listxattr(path)
    except OSError:
        return []


def _check_elf(path: str, head: bytes) -> None:
    """Of our kind, and with a loader."""
    with open(sys.executable, "rb") as file:
        ours = file.read(20)
    if head[4:6] != ours[4:6] or head[18:20] != ours[18:20]:
        raise UsageError(
            f"{shown(path)} cannot be given lazy memory",
            cause="it is for another kind of machine than this Python, and so is the library",
            cure="use a program, and a Python, of the same architecture",
        )
    order = "<" if head[5] == _LITTLE else ">"
    (table,) = struct.unpack_from(f"{order}Q", head, 32)
    size, count = struct.unpack_from(f"{order}HH", head, 54)
    with open(path, "rb") as file:
        file.seek(table)
        headers = file.read(size * count)
    kinds = [struct.unpack_from(f"{order}I", headers, at)[0] for at in range(0, len(headers), size)]
    if _PT_INTERP not in kinds:
        raise UsageError(
            f"{shown(path)} cannot be given lazy memory",
            cause="it is statically linked: no loader puts a library into it",
            cure="use a build of it that is dynamically linked",
        )
