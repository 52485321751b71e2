"""Calls, answers, addresses and messages in the words of the prompt."""

from __future__ import annotations

import bisect
import re

from userfault.check.differential.areas import AREAS
from userfault.check.differential.side import messages
from userfault.check.prompt.guest import Access
from userfault.check.prompt.session import Told
from userfault.check.words.trace import show_call, show_result
from userfault.kernel import calls
from userfault.kernel.calls import Call, Ioctl
from userfault.kernel.modes import FaultFlag, Ioctls, Mode, names
from userfault.uapi import kvm
from userfault.uapi import userfaultfd as abi
from userfault.uapi.layout import Layout

_STARTS = sorted((area.address, area.name) for area in AREAS.values() if area.memory != "nowhere")
_NUMBER = re.compile(r"0x[0-9a-f]+")
_ARGUMENTS: dict[int, tuple[str, Layout]] = {
    abi.UFFDIO_API: ("UFFDIO_API", abi.uffdio_api),
    abi.UFFDIO_SET_MODE: ("UFFDIO_SET_MODE", abi.uffdio_set_mode),
    abi.UFFDIO_REGISTER: ("UFFDIO_REGISTER", abi.uffdio_register),
    abi.UFFDIO_UNREGISTER: ("UFFDIO_UNREGISTER", abi.uffdio_range),
    abi.UFFDIO_WAKE: ("UFFDIO_WAKE", abi.uffdio_range),
    abi.UFFDIO_COPY: ("UFFDIO_COPY", abi.uffdio_copy),
    abi.UFFDIO_ZEROPAGE: ("UFFDIO_ZEROPAGE", abi.uffdio_zeropage),
    abi.UFFDIO_CONTINUE: ("UFFDIO_CONTINUE", abi.uffdio_continue),
    abi.UFFDIO_POISON: ("UFFDIO_POISON", abi.uffdio_poison),
    abi.UFFDIO_MOVE: ("UFFDIO_MOVE", abi.uffdio_move),
    abi.UFFDIO_WRITEPROTECT: ("UFFDIO_WRITEPROTECT", abi.uffdio_writeprotect),
    abi.UFFDIO_RWPROTECT: ("UFFDIO_RWPROTECT", abi.uffdio_rwprotect),
    kvm.KVM_CREATE_GUEST_MEMFD: ("KVM_CREATE_GUEST_MEMFD", kvm.kvm_create_guest_memfd),
}
_NAMES = {kvm.KVM_CREATE_VM: "KVM_CREATE_VM"}


# --- Calls and answers ---------------------------------------------------------------------------


def call_text(call: Call | Access) -> str:
    """A call as one would write it down; an ioctl with the fields of its argument."""
    if isinstance(call, Access):
        return str(call)
    if not isinstance(call, Ioctl):
        return places(show_call(call))
    fields = _fields(call, call.argument)
    if fields is None:
        known = _NAMES.get(call.request)
        return f"{known}({call.fd})" if known else places(show_call(call))
    told = [f"{name} {_field(call, name, value)}" for name, value in fields.items() if value]
    return f"{_ARGUMENTS[call.request][0]}({', '.join((str(call.fd), *told))})"


def answer_text(told: Told) -> str:
    """What it has come to: bytes as bytes, messages in words, of an ioctl the fields it set."""
    result, call = told.result, told.call
    if result is None:
        return f"sleeps: {told.waits_for}"
    if result.ok and isinstance(call, calls.ReadFd):
        return "\n".join(message_texts(result.data))
    if result.ok and isinstance(call, calls.Read | calls.Pread):
        return repr(result.data)
    if result.ok and isinstance(call, Access) and result.data:
        return repr(result.data)
    if isinstance(call, Ioctl):
        before, after = _fields(call, call.argument), _fields(call, result.data)
        if before is not None and after is not None:
            bare = show_result(type(result)(result.value, result.errno))
            new = [
                f"{name} {_field(call, name, value)}"
                for name, value in after.items()
                if before[name] != value
            ]
            return ", ".join((bare, *new))
    return places(show_result(result))


def _fields(call: Ioctl, data: object) -> dict[str, int] | None:
    """The fields of an argument by their last names."""
    known = _ARGUMENTS.get(call.request)
    if known is None or not isinstance(data, bytes) or len(data) != known[1].size:
        return None
    values = known[1].struct.unpack(data)
    return {name.split(".")[-1]: value for name, value in zip(known[1].names, values, strict=True)}


def _field(call: Ioctl, name: str, value: int) -> str:
    if name == "ioctls":
        return names(value, Ioctls)
    if name == "mode" and call.request == abi.UFFDIO_REGISTER:
        return names(value, Mode)
    if name in ("copy", "zeropage", "mapped", "updated", "move"):  # bytes done, or an errno
        return str(value - (1 << 64) if value >> 63 else value)
    return place(value) or (hex(value) if value > 0xFFFF else str(value))


# --- Addresses -----------------------------------------------------------------------------------


def places(text: str) -> str:
    """A text with addresses as programs write them."""
    return _NUMBER.sub(lambda found: place(int(found[0], 0)) or found[0], text)


def place(address: int) -> str | None:
    """`anon+2+512`: where it is in an area, or at its very end."""
    at = bisect.bisect_right(_STARTS, address, key=lambda start: start[0]) - 1
    if at < 0:
        return None
    area = AREAS[_STARTS[at][1]]
    page, extra = divmod(address - area.address, area.page)
    if page > area.pages or (page == area.pages and extra):
        whole = AREAS.get(area.within)
        if whole is None or not whole.address <= address <= whole.address + whole.length:
            return None
        area = whole
        page, extra = divmod(address - area.address, area.page)
    return f"{area.name}+{page}" + (f"+{extra}" if extra else "")


# --- Messages ------------------------------------------------------------------------------------


def message_texts(data: bytes) -> list[str]:
    """What a read of a userfaultfd gave, a line each."""
    return [places(_message(one)) for one in messages(data)]


def _message(data: bytes) -> str:
    code = data[0]
    if code == abi.UFFD_EVENT_PAGEFAULT:
        flags, address = abi.uffd_msg_pagefault.struct.unpack(data)[1:3]
        kinds = FaultFlag(flags) & ~FaultFlag.WRITE
        kind = "|".join(str(flag.name) for flag in FaultFlag if flag & kinds) or "MISSING"
        access = "write" if flags & abi.UFFD_PAGEFAULT_FLAG_WRITE else "read"
        return f"PAGEFAULT {kind}, a {access} at {address:#x}"
    if code == abi.UFFD_EVENT_FORK:
        fd = abi.uffd_msg_fork.struct.unpack(data)[1]
        return f"FORK, the userfaultfd of the child is descriptor {fd}"
    if code == abi.UFFD_EVENT_REMAP:
        _, start, to, length = abi.uffd_msg_remap.struct.unpack(data)
        return f"REMAP {start:#x} to {to:#x}, {length} bytes"
    _, start, end = abi.uffd_msg_remove.struct.unpack(data)
    kind = "REMOVE" if code == abi.UFFD_EVENT_REMOVE else "UNMAP"
    return f"{kind} {start:#x} to {end:#x}"
