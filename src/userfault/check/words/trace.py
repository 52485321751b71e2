"""Calls and results as text, for traces and failures."""

from __future__ import annotations

import enum
import errno

import msgspec

from userfault.kernel.calls import Call, Ioctl, Result
from userfault.uapi import userfaultfd as abi
from userfault.uapi.pagemap import PAGEMAP_SCAN

_REQUESTS = {
    value: name
    for name, value in vars(abi).items()
    if name.startswith(("UFFDIO_", "USERFAULTFD_IOC_")) and "MODE" not in name and value > 0xFFF
} | {PAGEMAP_SCAN: "PAGEMAP_SCAN"}
_SHOWN_BYTES = 48


def errno_name(code: int) -> str:
    """The errno's name, `success` for 0."""
    return errno.errorcode.get(code, f"errno {code}") if code else "success"


def show_call(call: Call) -> str:
    """A call as one would write it down: `Read(0x100200000000, 8)`."""
    fields = msgspec.structs.asdict(call)
    if isinstance(call, Ioctl):
        fields["request"] = _REQUESTS.get(call.request, hex(call.request))
        if isinstance(call.argument, bytes):
            fields["argument"] = _words(call.argument)
    return f"{type(call).__name__}({', '.join(_show(value) for value in fields.values())})"


def show_result(result: Result) -> str:
    """A result: the signal, the errno or the value, and the bytes."""
    if result.signal is not None:
        info = result.signal
        told = f"signal {info.number}, code {info.code}, at {info.address:#x}, lsb {info.lsb}"
    elif result.errno:
        told = errno_name(result.errno)
    else:
        told = _show(result.value)
    if result.data:
        told += f", {_words(result.data)}"
    if result.vmas:
        told += ", " + "; ".join(
            f"{vma.start:#x}-{vma.end:#x} {vma.permissions} {' '.join(vma.flags)}".rstrip()
            for vma in result.vmas
        )
    return told


def _show(value: object) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, bytes):
        return _short(value)
    if isinstance(value, enum.Enum):
        return str(value.name)
    if isinstance(value, int) and abs(value) > 0xFFFF:
        return hex(value)
    return str(value)


def _words(data: bytes) -> str:
    """The argument of an ioctl: 64-bit words."""
    if len(data) % 8 or len(data) > 96:
        return _short(data)
    words = (int.from_bytes(data[place : place + 8], "little") for place in range(0, len(data), 8))
    return "[" + " ".join(format(word, "#x") for word in words) + "]"


def _short(data: bytes) -> str:
    if len(data) <= _SHOWN_BYTES:
        return repr(data)
    if data == data[:1] * len(data):
        return f"{data[:1]!r} * {len(data)}"
    return f"{data[:_SHOWN_BYTES]!r}... ({len(data)} bytes)"
