"""guest_memfd: memory of a KVM virtual machine as a descriptor.

Made by /dev/kvm (6.8; mappable by the host since 6.18 with the flags MMAP and INIT_SHARED).  No
released kernel up to 7.3.4 lets userfaultfd register such a mapping (measured on 6.18 and 7.3):
`docs/kernels.md` tells the story.
"""

from __future__ import annotations

import os

from userfault.kernel.errors import MemoryUnavailable
from userfault.linux import kvm

DEVICE = kvm.DEVICE
NOT_IN_ANY_RELEASE = (
    "no released kernel (checked up to 7.3.4) has userfaultfd for guest_memfd: patches for it were"
    " posted in March 2026 and not merged"
)


def create(length: int, machine: kvm.Vm | None = None) -> int:
    """A guest_memfd of `length` bytes that can be mapped shared; raises MemoryUnavailable.

    It can be a slot of `machine` and of no other; by default of one that is made for it.
    """
    used = kvm.Vm(DEVICE, "guest_memfd") if machine is None else machine
    try:
        return used.create_guest_memfd(length)
    except OSError as error:
        raise MemoryUnavailable(
            "cannot create a guest_memfd that can be mapped",
            cause=f"KVM_CREATE_GUEST_MEMFD: {os.strerror(error.errno or 0)}",
            cure="it needs Linux 6.18 or newer with CONFIG_KVM_GUEST_MEMFD",
        ) from None
    finally:
        if machine is None:
            used.close()  # the guest_memfd keeps it alive
