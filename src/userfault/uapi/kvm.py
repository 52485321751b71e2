"""The little of KVM that guest_memfd needs: <linux/kvm.h>, names as in C.

guest_memfd is memory that belongs to a virtual machine and not to a process; it is created
through a KVM descriptor. No virtual CPU is needed.

Source: linux/kvm.h of Linux 6.1 and 7.3.
"""

from __future__ import annotations

from userfault.uapi.ioc import io, iow, iowr
from userfault.uapi.layout import U32, U64, Layout, Reserved

KVMIO = 0xAE

# --- Requests on /dev/kvm ------------------------------------------------------------------------

KVM_API_VERSION = 12  # what KVM_GET_API_VERSION has answered since 2.6.22
KVM_GET_API_VERSION = io(KVMIO, 0x00)
KVM_CREATE_VM = io(KVMIO, 0x01)  # the argument is the machine type, the result a descriptor
KVM_CHECK_EXTENSION = io(KVMIO, 0x03)  # works on /dev/kvm and on the machine's descriptor

# --- Arguments of KVM_CHECK_EXTENSION ------------------------------------------------------------

KVM_CAP_USER_MEMORY2 = 231  # 6.8; KVM_SET_USER_MEMORY_REGION2
KVM_CAP_GUEST_MEMFD = 234  # 6.8; KVM_CREATE_GUEST_MEMFD
KVM_CAP_GUEST_MEMFD_FLAGS = 244  # 6.18; answers with the GUEST_MEMFD_FLAG_* that work

# --- Requests on the machine's descriptor --------------------------------------------------------

GUEST_MEMFD_FLAG_MMAP = 1 << 0  # 6.18; without it mmap(2) fails
GUEST_MEMFD_FLAG_INIT_SHARED = 1 << 1  # 6.18; without it touching a mapped page raises SIGBUS

kvm_create_guest_memfd = Layout(
    "kvm_create_guest_memfd", ("size", U64), ("flags", U64), ("reserved", Reserved(U64, 6))
)
KVM_CREATE_GUEST_MEMFD = iowr(KVMIO, 0xD4, kvm_create_guest_memfd)  # 6.8

KVM_MEM_LOG_DIRTY_PAGES = 1 << 0
KVM_MEM_READONLY = 1 << 1
KVM_MEM_GUEST_MEMFD = 1 << 2  # 6.8; guest_memfd and guest_memfd_offset are meant

kvm_userspace_memory_region2 = Layout(
    "kvm_userspace_memory_region2",
    ("slot", U32),
    ("flags", U32),
    ("guest_phys_addr", U64),
    ("memory_size", U64),
    ("userspace_addr", U64),
    ("guest_memfd_offset", U64),
    ("guest_memfd", U32),
    ("pad1", Reserved(U32)),
    ("pad2", Reserved(U64, 14)),
)
KVM_SET_USER_MEMORY_REGION2 = iow(KVMIO, 0x49, kvm_userspace_memory_region2)  # 6.8
