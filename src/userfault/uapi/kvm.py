"""The little of KVM that guest_memfd and a small machine need: <linux/kvm.h>, names as in C.

guest_memfd is memory that belongs to a virtual machine and not to a process; it is created
through a KVM descriptor. No virtual CPU is needed for it.  The structs of registers are those of
x86 (<asm/kvm.h>).

Source: linux/kvm.h and asm/kvm.h of Linux 6.1 and 7.3.
"""

from __future__ import annotations

from userfault.uapi.ioc import io, ior, iow, iowr
from userfault.uapi.layout import U8, U16, U32, U64, Layout, Reserved

KVMIO = 0xAE

# --- Requests on /dev/kvm ------------------------------------------------------------------------

KVM_API_VERSION = 12  # what KVM_GET_API_VERSION has answered since 2.6.22
KVM_GET_API_VERSION = io(KVMIO, 0x00)
KVM_CREATE_VM = io(KVMIO, 0x01)  # the argument is the machine type, the result a descriptor
KVM_CHECK_EXTENSION = io(KVMIO, 0x03)  # works on /dev/kvm and on the machine's descriptor
KVM_GET_VCPU_MMAP_SIZE = io(KVMIO, 0x04)

kvm_cpuid2 = Layout("kvm_cpuid2", ("nent", U32), ("padding", Reserved(U32)))  # entries follow
kvm_cpuid_entry2 = Layout(
    "kvm_cpuid_entry2",
    ("function", U32),
    ("index", U32),
    ("flags", U32),
    ("eax", U32),
    ("ebx", U32),
    ("ecx", U32),
    ("edx", U32),
    ("padding", Reserved(U32, 3)),
)
KVM_GET_SUPPORTED_CPUID = iowr(KVMIO, 0x05, kvm_cpuid2)

# --- Arguments of KVM_CHECK_EXTENSION ------------------------------------------------------------

KVM_CAP_USER_MEMORY2 = 231  # 6.8; KVM_SET_USER_MEMORY_REGION2
KVM_CAP_GUEST_MEMFD = 234  # 6.8; KVM_CREATE_GUEST_MEMFD
KVM_CAP_GUEST_MEMFD_FLAGS = 244  # 6.18; answers with the GUEST_MEMFD_FLAG_* that work

# --- Requests on the machine's descriptor --------------------------------------------------------

KVM_CREATE_VCPU = io(KVMIO, 0x41)  # the argument is the number of the CPU, the result a descriptor

GUEST_MEMFD_FLAG_MMAP = 1 << 0  # 6.18; without it mmap(2) fails
GUEST_MEMFD_FLAG_INIT_SHARED = 1 << 1  # 6.18; without it touching a mapped page raises SIGBUS

kvm_create_guest_memfd = Layout(
    "kvm_create_guest_memfd", ("size", U64), ("flags", U64), ("reserved", Reserved(U64, 6))
)
KVM_CREATE_GUEST_MEMFD = iowr(KVMIO, 0xD4, kvm_create_guest_memfd)  # 6.8

KVM_MEM_LOG_DIRTY_PAGES = 1 << 0
KVM_MEM_READONLY = 1 << 1
KVM_MEM_GUEST_MEMFD = 1 << 2  # 6.8; guest_memfd and guest_memfd_offset are meant

kvm_userspace_memory_region = Layout(
    "kvm_userspace_memory_region",
    ("slot", U32),
    ("flags", U32),
    ("guest_phys_addr", U64),
    ("memory_size", U64),
    ("userspace_addr", U64),
)
KVM_SET_USER_MEMORY_REGION = iow(KVMIO, 0x46, kvm_userspace_memory_region)

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

# --- Requests on a virtual CPU's descriptor ------------------------------------------------------

KVM_RUN = io(KVMIO, 0x80)

kvm_regs = Layout(
    "kvm_regs",
    ("rax", U64),
    ("rbx", U64),
    ("rcx", U64),
    ("rdx", U64),
    ("rsi", U64),
    ("rdi", U64),
    ("rsp", U64),
    ("rbp", U64),
    ("r8", U64),
    ("r9", U64),
    ("r10", U64),
    ("r11", U64),
    ("r12", U64),
    ("r13", U64),
    ("r14", U64),
    ("r15", U64),
    ("rip", U64),
    ("rflags", U64),
)
KVM_GET_REGS = ior(KVMIO, 0x81, kvm_regs)
KVM_SET_REGS = iow(KVMIO, 0x82, kvm_regs)

kvm_segment = Layout(
    "kvm_segment",
    ("base", U64),
    ("limit", U32),
    ("selector", U16),
    ("type", U8),
    ("present", U8),
    ("dpl", U8),
    ("db", U8),
    ("s", U8),
    ("l", U8),
    ("g", U8),
    ("avl", U8),
    ("unusable", U8),
    ("padding", Reserved(U8)),
)
kvm_dtable = Layout("kvm_dtable", ("base", U64), ("limit", U16), ("padding", Reserved(U16, 3)))
kvm_sregs = Layout(
    "kvm_sregs",
    ("cs", kvm_segment),
    ("ds", kvm_segment),
    ("es", kvm_segment),
    ("fs", kvm_segment),
    ("gs", kvm_segment),
    ("ss", kvm_segment),
    ("tr", kvm_segment),
    ("ldt", kvm_segment),
    ("gdt", kvm_dtable),
    ("idt", kvm_dtable),
    ("cr0", U64),
    ("cr2", U64),
    ("cr3", U64),
    ("cr4", U64),
    ("cr8", U64),
    ("efer", U64),
    ("apic_base", U64),
    ("interrupt_bitmap", Reserved(U64, 4)),
)
KVM_GET_SREGS = ior(KVMIO, 0x83, kvm_sregs)
KVM_SET_SREGS = iow(KVMIO, 0x84, kvm_sregs)

kvm_signal_mask = Layout("kvm_signal_mask", ("len", U32))  # `len` bytes of a mask follow
KVM_SET_SIGNAL_MASK = iow(KVMIO, 0x8B, kvm_signal_mask)

# What is kept and put back as it is: no field of it is looked at.
kvm_fpu = Layout("kvm_fpu", ("fpr", Reserved(U8, 128)), size=416)
KVM_GET_FPU = ior(KVMIO, 0x8C, kvm_fpu)
KVM_SET_FPU = iow(KVMIO, 0x8D, kvm_fpu)

KVM_SET_CPUID2 = iow(KVMIO, 0x90, kvm_cpuid2)

kvm_mp_state = Layout("kvm_mp_state", ("mp_state", U32))
KVM_GET_MP_STATE = ior(KVMIO, 0x98, kvm_mp_state)
KVM_SET_MP_STATE = iow(KVMIO, 0x99, kvm_mp_state)

kvm_vcpu_events = Layout("kvm_vcpu_events", ("exception", Reserved(U8, 8)), size=64)
KVM_GET_VCPU_EVENTS = ior(KVMIO, 0x9F, kvm_vcpu_events)
KVM_SET_VCPU_EVENTS = iow(KVMIO, 0xA0, kvm_vcpu_events)

kvm_debugregs = Layout("kvm_debugregs", ("db", Reserved(U64, 4)), size=128)
KVM_GET_DEBUGREGS = ior(KVMIO, 0xA1, kvm_debugregs)
KVM_SET_DEBUGREGS = iow(KVMIO, 0xA2, kvm_debugregs)

# --- Why KVM_RUN returned: kvm_run.exit_reason ---------------------------------------------------

KVM_EXIT_UNKNOWN = 0
KVM_EXIT_IO = 2
KVM_EXIT_HLT = 5
KVM_EXIT_MMIO = 6
KVM_EXIT_SHUTDOWN = 8  # a triple fault
KVM_EXIT_FAIL_ENTRY = 9
KVM_EXIT_INTR = 10
KVM_EXIT_INTERNAL_ERROR = 17
KVM_EXIT_MEMORY_FAULT = 39  # 6.8; KVM_RUN fails with EFAULT beside it
KVM_EXIT_IO_OUT = 1
