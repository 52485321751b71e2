"""Firecracker's snapshots: a memory file, which is raw, beside a file with the state of the VM.

Nothing in the memory file tells what it is.  The state file begins with a magic number of 64 bits,
little endian: 0x0710_1984 and the architecture (0x8664 or 0xAAAA) above 16 bits that old releases
used for a version.  The newest encode the number with a tag byte before it.  So a memory file is
one of Firecracker's if the caller names a state file, or if one file of its folder, and one only,
begins with the number.

The memory file of a diff snapshot holds the pages written since the last one; its holes mean "as
before" (docs/snapshotting/snapshot-support.md of Firecracker).
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator

import msgspec
from blake3 import blake3

from userfault.kernel.errors import UsageError
from userfault.snapshot.inputs.file import FileInput
from userfault.snapshot.inputs.protocol import PAGE, Holds
from userfault.source.opening import open_file

_MAGIC = {0x0710_1984_8664: "x86_64", 0x0710_1984_AAAA: "aarch64"}
_LARGEST_STATE = 64 << 20  # Firecracker itself reads 10 MB at most
_HEAD = 64
_MOST_FILES = 1000  # of a folder that are looked at


class State(msgspec.Struct, frozen=True):
    """A state file: where, of which architecture, in which version of the format ("" unknown)."""

    path: str
    architecture: str
    version: str


def firecracker(memory: str, *, state: str | None = None, diff: bool = False) -> FileInput:
    """A memory file; `diff`: of a diff snapshot.

    The manifest keeps the name of the state file and its BLAKE3 digest, so that a restore can tell
    whether the two belong together.  Raises UsageError where `state` is no state file.
    """
    about = {}
    if state is not None:
        found = state_of(state)
        if found is None:
            raise UsageError(
                f"{state} is no state file of Firecracker",
                cause="it does not begin with the number that these files begin with",
                cure="name the file that was given as snapshot_path",
            )
        about = {
            "vmstate": os.path.basename(found.path),
            "vmstate_digest": _digest(found.path),
            "architecture": found.architecture,
        }
        if found.version:
            about["vmstate_version"] = found.version
    holes = Holds.BASE if diff else Holds.HOLE
    return FileInput(memory, kind="firecracker", about=about, holes=holes)


def state_of(path: str) -> State | None:
    """What the file is as a state file; None where it is none, or cannot be read."""
    try:
        with open(open_file(path), "rb") as file:
            head = file.read(_HEAD)
    except OSError:
        return None
    for skip in (0, 1):  # 1: a tag byte of bitcode, 0, for 8 bytes
        if len(head) < skip + 8 or any(head[:skip]):
            continue
        (magic,) = struct.unpack_from("<Q", head, skip)
        architecture = _MAGIC.get(magic >> 16)
        if architecture is not None:
            return State(path, architecture, "" if skip else _version(head))
    return None


def _version(head: bytes) -> str:
    """The version behind the number: a length of 64 bits and the text `1.2.3`; else empty."""
    if len(head) < 16:
        return ""
    (length,) = struct.unpack_from("<Q", head, 8)
    text = head[16 : 16 + length] if length < 32 else b""
    return text.decode() if text and all(byte in b"0123456789." for byte in text) else ""


def state_beside(memory: str) -> str | None:
    """The one state file in the folder of a memory file; None where there is none, or several."""
    found = [path for path in _files(os.path.dirname(memory) or ".") if state_of(path)]
    return found[0] if len(found) == 1 else None


def pair_in(folder: str) -> tuple[str, str] | None:
    """Memory file and state file of a folder that has one of each, else None."""
    states, memories = [], []
    for path in _files(folder):
        if state_of(path):
            states.append(path)
        elif (size := os.path.getsize(path)) and size % PAGE == 0:
            memories.append(path)
    return (memories[0], states[0]) if len(states) == len(memories) == 1 else None


def _files(folder: str) -> Iterator[str]:
    with os.scandir(folder) as entries:
        for number, entry in enumerate(entries):
            if number == _MOST_FILES:
                return
            if entry.is_file():
                yield entry.path


def _digest(path: str) -> str:
    if os.path.getsize(path) > _LARGEST_STATE:
        raise UsageError(
            f"{path} is too large for a state file of Firecracker",
            cause=f"these have less than {_LARGEST_STATE >> 20} MiB",
            cure="name the file that was given as snapshot_path",
        )
    with open(open_file(path), "rb") as file:
        return blake3(file.read()).hexdigest()
