"""guest_memfd: memory of a KVM virtual machine as a descriptor.

Made by /dev/kvm (6.8; mappable by the host since 6.18 with the flags MMAP and INIT_SHARED).  No
released kernel up to 7.3.4 lets userfaultfd register such a mapping (measured on 6.18 and 7.3):
`docs/kernels.md` tells the story.
"""

from __future__ import annotations

import errno
import fcntl
import os

from userfault.kernel.errors import MemoryUnavailable
from userfault.uapi import kvm

DEVICE = "/dev/kvm"
NOT_IN_ANY_RELEASE = (
    "no released kernel (checked up to 7.3.4) has userfaultfd for guest_memfd: patches for it were"
    " posted in March 2026 and not merged"
)


def create(length: int) -> int:
    """A guest_memfd of `length` bytes that can be mapped shared; raises MemoryUnavailable."""
    machine = _machine()
    flags = kvm.GUEST_MEMFD_FLAG_MMAP | kvm.GUEST_MEMFD_FLAG_INIT_SHARED
    try:
        argument = kvm.kvm_create_guest_memfd.struct.pack(length, flags)
        created: int = fcntl.ioctl(machine, kvm.KVM_CREATE_GUEST_MEMFD, bytearray(argument))
        return created
    except OSError as error:
        raise MemoryUnavailable(
            "cannot create a guest_memfd that can be mapped",
            cause=f"KVM_CREATE_GUEST_MEMFD: {os.strerror(error.errno or 0)}",
            cure="it needs Linux 6.18 or newer with CONFIG_KVM_GUEST_MEMFD",
        ) from None
    finally:
        os.close(machine)  # the guest_memfd keeps the machine alive


def _machine() -> int:
    try:
        device = os.open(DEVICE, os.O_RDWR | os.O_CLOEXEC)
    except OSError as error:
        cure = (
            f"join the group that owns {DEVICE} (often `kvm`)"
            if error.errno in (errno.EACCES, errno.EPERM)
            else "load the kvm module; a virtual machine needs nested virtualisation"
        )
        raise MemoryUnavailable(
            "guest_memfd needs KVM", cause=f"{DEVICE}: {os.strerror(error.errno or 0)}", cure=cure
        ) from None
    try:
        return fcntl.ioctl(device, kvm.KVM_CREATE_VM, 0)
    except OSError as error:
        raise MemoryUnavailable(
            "guest_memfd needs a KVM virtual machine",
            cause=f"KVM_CREATE_VM: {os.strerror(error.errno or 0)}",
            cure="check the kernel log for what KVM says",
        ) from None
    finally:
        os.close(device)
