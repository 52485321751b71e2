"""Snapshots of Cloud Hypervisor: memory, and behind it what else restores the VM.

| a folder with | is |
|---|---|
| `memory-ranges`, `config.json`, `state.json` | what `ch-remote snapshot` writes |
| `memory-SLOT`..., `migration_config.json`, `state.json` | what its offload daemon writes |

In a store the image is the memory, then the configuration and the state as the migration protocol
carries them; the manifest's words say how long each is.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator, Mapping, Sequence

import msgspec

from userfault.kernel.errors import SourceError, UsageError
from userfault.snapshot.errors import FormatError
from userfault.snapshot.inputs.buffer import Buffer
from userfault.snapshot.inputs.cloud_hypervisor_machine import (
    MOST_BYTES,
    Machine,
    of_files,
    of_messages,
)
from userfault.snapshot.inputs.protocol import PAGE, Holds, Region, Run
from userfault.source.opening import open_file

KIND = "cloud-hypervisor"
MEMORY, CONFIG, STATE, MIGRATION = (
    "memory-ranges",
    "config.json",
    "state.json",
    "migration_config.json",
)


class Piece(msgspec.Struct, frozen=True):
    """`length` bytes at `offset` of an open file, which is the image's next part."""

    fd: int
    offset: int
    length: int
    name: str


def is_snapshot(path: str) -> bool:
    """Whether it is a folder with such a snapshot."""
    return any(
        all(os.path.exists(os.path.join(path, name)) for name in names)
        for names in ((MEMORY, CONFIG, STATE), (MIGRATION, STATE))
    )


def machine_in(folder: str) -> Machine:
    """The VM of a folder.  Raises FormatError, UsageError where it cannot be read."""
    state = _content(os.path.join(folder, STATE))
    if os.path.exists(os.path.join(folder, MEMORY)):
        return of_files(_content(os.path.join(folder, CONFIG)), state)
    return of_messages(_content(os.path.join(folder, MIGRATION)), state, slots=True)


def memory_files(folder: str, machine: Machine) -> list[str]:
    """The files of its memory, in the order of the image."""
    if os.path.exists(os.path.join(folder, MEMORY)):
        return [os.path.join(folder, MEMORY)]
    return [os.path.join(folder, f"memory-{each.slot}") for each in machine.slots]


def opened(folder: str) -> CloudHypervisorInput:
    """The snapshot in a folder.  Raises FormatError, UsageError."""
    machine = machine_in(folder)
    files = memory_files(folder, machine)
    lengths = [each.size for each in machine.slots] if len(files) > 1 else [machine.length]
    pieces = []
    try:
        for path, length in zip(files, lengths, strict=True):
            fd = open_file(path)
            pieces.append(Piece(fd, 0, length, os.path.basename(path)))
            if (held := os.lseek(fd, 0, os.SEEK_END)) != length:
                raise FormatError(
                    f"{path} does not belong to its snapshot",
                    cause=f"it has {held} bytes, and {length} bytes of memory are recorded",
                    cure="make the snapshot anew",
                )
    except OSError as error:
        _close(pieces)
        raise UsageError(
            f"cannot open the memory of {folder}", cause=error.strerror or "", cure="check the path"
        ) from None
    except BaseException:
        _close(pieces)
        raise
    return CloudHypervisorInput(machine, pieces)


class CloudHypervisorInput:
    """The memory of `machine` in `pieces`, and its configuration and state behind it.

    The descriptors are its own from here on.
    """

    kind = KIND
    regions: Sequence[Region] = ()
    warnings: Sequence[str] = ()

    def __init__(self, machine: Machine, pieces: Sequence[Piece]) -> None:
        self._machine = machine
        self._pieces = list(pieces)
        self._tail = machine.config + machine.state
        self._looked = [_look(each.fd) for each in self._pieces]
        self._buffer = Buffer()
        self.length = machine.length + len(self._tail)

    def runs(self) -> Iterator[Run]:
        """Data and holes of each piece, then the tail."""
        at = 0
        for piece in self._pieces:
            for start, length, holds in _extents(piece):
                yield Run((at + start) // PAGE, length // PAGE, holds)
            at += piece.length
        yield Run(at // PAGE, -(-len(self._tail) // PAGE), Holds.DATA)

    def read(self, page: int, count: int) -> memoryview:
        """The bytes, zeros behind the end."""
        view = self._buffer.pages(count)
        at, end = page * PAGE, (page + count) * PAGE
        begin = 0
        for piece in self._pieces:
            low, high = max(at, begin), min(end, begin + piece.length)
            if low < high:
                self._read(piece, low - begin, view[low - at : high - at])
            begin += piece.length
        if end > begin:
            skip = max(at - begin, 0)
            rest = self._tail[skip : end - begin]
            first = max(begin - at, 0)
            view[first : first + len(rest)] = rest
            view[first + len(rest) :] = bytes(len(view) - first - len(rest))
        return view

    def _read(self, piece: Piece, offset: int, into: memoryview) -> None:
        done = 0
        while done < len(into):
            try:
                got = os.preadv(piece.fd, [into[done:]], piece.offset + offset + done)
            except OSError as error:
                raise _unreadable(piece, offset + done, os.strerror(error.errno or 0)) from None
            if not got:
                raise _unreadable(piece, offset + done, "it ends before the length that it had")
            done += got

    def finish(self) -> Mapping[str, str]:
        """How long each part is.  Raises SourceError where the memory was written meanwhile."""
        for piece, before in zip(self._pieces, self._looked, strict=True):
            if _look(piece.fd) != before:
                raise _unreadable(piece, 0, "it changed while it was packed")
        return {
            "memory_bytes": str(self._machine.length),
            "config_bytes": str(len(self._machine.config)),
            "state_bytes": str(len(self._machine.state)),
            "slots": str(int(_all_slots(self._machine))),
        }

    def close(self) -> None:
        """Close the files."""
        _close(self._pieces)
        self._pieces = []


def parts(about: Mapping[str, str], length: int) -> tuple[int, int, int, bool]:
    """Bytes of memory, configuration and state of an image in a store, and whether it has whole
    slots.  Raises FormatError where its words do not fit its length."""
    try:
        memory, config, state = (
            int(about[f"{name}_bytes"]) for name in ("memory", "config", "state")
        )
        whole = about["slots"] == "1"
    except (KeyError, ValueError):
        memory = config = state = -1
        whole = False
    sound = min(memory, config, state) > 0 and max(config, state) <= MOST_BYTES
    if not sound or memory % PAGE or memory + config + state != length:
        raise FormatError(
            "this is no snapshot of Cloud Hypervisor",
            cause="its manifest does not say where configuration and state lie in it",
            cure="pack the folder of the snapshot: userfault pack FOLDER STORE/NAME",
        )
    return memory, config, state, whole


def _all_slots(machine: Machine) -> bool:
    return [(each.gpa, each.size) for each in machine.slots] == [
        (each.gpa, each.length) for each in machine.ranges
    ]


def _extents(piece: Piece) -> Iterator[tuple[int, int, Holds]]:
    """[offset in the piece, length, what it holds], whole pages, without gaps."""
    at = 0
    while at < piece.length:
        try:
            start = os.lseek(piece.fd, piece.offset + at, os.SEEK_DATA) - piece.offset
            end = os.lseek(piece.fd, piece.offset + start, os.SEEK_HOLE) - piece.offset
        except OSError as error:
            if error.errno not in (errno.ENXIO, errno.EINVAL):
                raise
            # Nothing but a hole is left; or it does not know holes.
            start = end = piece.length if error.errno == errno.ENXIO else at
            end = piece.length
        start = min(max(at, start // PAGE * PAGE), piece.length)
        end = min(-(-end // PAGE) * PAGE, piece.length)
        if start > at:
            yield at, start - at, Holds.HOLE
        if end > start:
            yield start, end - start, Holds.DATA
        at = end


def _look(fd: int) -> tuple[int, int]:
    held = os.fstat(fd)
    return held.st_size, held.st_mtime_ns


def _content(path: str) -> bytes:
    try:
        with open(open_file(path), "rb") as file:
            found = file.read(MOST_BYTES + 1)
    except OSError as error:
        raise UsageError(
            f"cannot read {path}", cause=error.strerror or str(error), cure="check the path"
        ) from None
    if len(found) > MOST_BYTES:
        raise FormatError(f"{path} is too large", cause=f"more than {MOST_BYTES} bytes", cure="")
    return found


def _unreadable(piece: Piece, offset: int, cause: str) -> SourceError:
    return SourceError(
        f"cannot read {piece.name} at offset {offset}",
        offset=offset,
        cause=cause,
        cure="pause the VM, and make the snapshot anew",
    )


def _close(pieces: Sequence[Piece]) -> None:
    for each in pieces:
        os.close(each.fd)
