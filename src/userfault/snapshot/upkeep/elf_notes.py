"""The notes of an ELF core: its threads, who it was, and which files were mapped where (core(5)).

All of it is from the manifest of a snapshot, which may tell anything: what makes no sense is left
out.  Layouts are those of 64-bit little-endian systems (linux/elfcore.h).
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator, Mapping, Sequence

from userfault.snapshot.inputs.protocol import PAGE, REGISTERS, Region

# By `uname -m`: EM_*, and the bytes of the general registers of a 64-bit thread.
_MACHINES = {"x86_64": (62, 216), "aarch64": (183, 272), "riscv64": (243, 256)}
_UNKNOWN = (0, 0)
_PRSTATUS, _PRPSINFO, _AUXV, _FILE = 1, 3, 6, 0x46494C45  # NT_*
_STATUS = struct.Struct("<iiihxxQQiiii64x")  # elf_prstatus as far as the registers
_NO_FLOATING_POINT = bytes(8)
_PSINFO = struct.Struct("<bcbbxxxxQIIiiii16s80s")  # elf_prpsinfo
_PAGE_SIZE = 6  # AT_PAGESZ (getauxval(3))
_LAST_ADDRESS = (1 << 64) - 1


def machine(about: Mapping[str, str]) -> int:
    """EM_* of the process; where the manifest names no machine, of the one that we are on."""
    return _machine(about)[0]


def notes(regions: Sequence[Region], about: Mapping[str, str]) -> bytes:
    """The segment PT_NOTE, in the order of the kernel's cores: the first thread before all else."""
    first, *others = [*_threads(about), b""]
    return b"".join((first, *_process(about), _files(regions), *others))


def _threads(about: Mapping[str, str]) -> Iterator[bytes]:
    """The registers of each thread; the first is the one that debuggers show."""
    size = _machine(about)[1]
    for name, value in about.items():
        thread = _decimal(name.removeprefix(REGISTERS)) if name.startswith(REGISTERS) else 0
        registers = _hex(value) if thread else b""
        if registers and len(registers) == size:  # not those of a 32-bit thread
            head = _STATUS.pack(0, 0, 0, 0, 0, 0, thread, 0, 0, 0)
            yield _note(_PRSTATUS, head + registers + _NO_FLOATING_POINT)


def _process(about: Mapping[str, str]) -> Iterator[bytes]:
    """The name and pid, and the auxiliary vector, by which debuggers find the libraries."""
    if "command" in about:
        name = about["command"].encode()[:15]
        pid = _decimal(about.get("pid", ""))
        info = _PSINFO.pack(0, b"T", 0, 0, 0, 0, 0, pid, 0, 0, 0, name, name)
        yield _note(_PRPSINFO, info)
    vector = _hex(about.get("auxv", ""))
    if len(vector) % 16 == 0 and dict(struct.iter_unpack("<QQ", vector)).get(_PAGE_SIZE) == PAGE:
        yield _note(_AUXV, vector)  # not that of a 32-bit process


def _files(regions: Sequence[Region]) -> bytes:
    """NT_FILE: how many files, the unit of the offsets, the ranges, the names."""
    files = [region for region in regions if region.name.startswith("/")]
    table = [struct.pack("<QQ", len(files), PAGE)]
    for region in files:
        end = min(region.start + region.length, _LAST_ADDRESS)
        table.append(struct.pack("<QQQ", region.start, end, region.file_offset // PAGE))
    table += [region.name.encode() + b"\0" for region in files]
    return _note(_FILE, b"".join(table))


def _machine(about: Mapping[str, str]) -> tuple[int, int]:
    return _MACHINES.get(about.get("machine", os.uname().machine), _UNKNOWN)


def _note(kind: int, data: bytes) -> bytes:
    padding = bytes(-len(data) % 4)
    return struct.pack("<III", 5, len(data), kind) + b"CORE\0\0\0\0" + data + padding


def _hex(text: str) -> bytes:
    """The bytes; none where it is no hexadecimal text."""
    try:
        return bytes.fromhex(text)
    except ValueError:
        return b""


def _decimal(text: str) -> int:
    """A pid; 0 where it is none."""
    return int(text) if text.isascii() and text.isdecimal() and len(text) < 10 else 0
