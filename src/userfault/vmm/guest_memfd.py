"""guest_memfd as memory of a machine: made by that machine, mapped by us, filled before it runs."""

from __future__ import annotations

import errno
import mmap
import os

import msgspec

from userfault.kernel.errors import RegistrationRefused, Unavailable
from userfault.kernel.memtypes import BASE_PAGE, memory, round_up
from userfault.kernel.modes import Mode
from userfault.linux import guest_memfd
from userfault.linux.kvm import Vm
from userfault.linux.libc import Pinned
from userfault.linux.refused import calling
from userfault.linux.uffd import LiveUserfaultfd

_NO_EXIT = (
    "a guest's own touch goes past the host's mapping, and KVM has no exit for what is missing: the"
    " guest would read zeros"
)


class GuestMemfd(msgspec.Struct, frozen=True):
    """Stands for `length` bytes of guest_memfd, which a `Machine` makes for itself."""

    length: int


class GuestMemory(mmap.mmap):
    """The host's shared mapping of a guest_memfd; `fd` is the file."""

    fd: int


def make(wanted: GuestMemfd, vm: Vm) -> GuestMemory:
    """A guest_memfd of this machine, mapped.  Raises MemoryUnavailable."""
    length = round_up(wanted.length, BASE_PAGE)
    fd = guest_memfd.create(length, vm)
    try:
        with calling("mmap"):
            made = GuestMemory(fd, length, flags=mmap.MAP_SHARED)
    except BaseException:
        os.close(fd)
        raise
    made.fd = fd
    return made


def why_not_lazy(mapped: GuestMemory) -> str:
    """Why it has to be filled before the guest runs: this kernel is asked, by a registration."""
    kind = memory("guest_memfd")
    try:
        with Pinned(mapped) as pinned, LiveUserfaultfd.open() as uffd:
            uffd.register(pinned.address, pinned.length, Mode.MINOR, memory=kind)
    except RegistrationRefused as refused:
        return f"UFFDIO_REGISTER: {errno.errorcode[refused.errno]}: {refused.cause}"
    except Unavailable as error:
        return str(error)
    return _NO_EXIT
