"""The userfaultfd ABI up to Linux 7.3: <linux/userfaultfd.h>, names as in C.

Read it from top to bottom: create a descriptor, agree on features, register memory, read
messages, resolve faults. The comment behind a name says which kernel release had it first; names
without one are as old as userfaultfd itself (4.3).

A struct whose last field is an answer (`copy`, `mapped`, `ioctls`, ...) is read by the kernel
without those 8 bytes; uffdio_api alone is read whole.

Source: linux/userfaultfd.h of Linux 6.1, 6.12, 7.2 and 7.3.
"""

from __future__ import annotations

from userfault.uapi.ioc import io, ior, iow, iowr
from userfault.uapi.layout import S64, U8, U16, U32, U64, Layout, Reserved

# --- Creating a descriptor -----------------------------------------------------------------------

# A flag of userfaultfd(2) and of USERFAULTFD_IOC_NEW: the faults the kernel itself takes on this
# memory are not served but fail. In exchange, anybody may create the descriptor.
UFFD_USER_MODE_ONLY = 1  # 5.11

# /dev/userfaultfd: the file's permissions decide who may create a descriptor. The argument is the
# flags word that userfaultfd(2) takes.
USERFAULTFD_IOC = 0xAA
USERFAULTFD_IOC_NEW = io(USERFAULTFD_IOC, 0x00)  # 6.1

# --- Command numbers -----------------------------------------------------------------------------

# They are also bit positions: the kernel answers "which commands work here" with 1 << number.
_UFFDIO_REGISTER = 0x00
_UFFDIO_UNREGISTER = 0x01
_UFFDIO_WAKE = 0x02
_UFFDIO_COPY = 0x03
_UFFDIO_ZEROPAGE = 0x04
_UFFDIO_MOVE = 0x05  # 6.8
_UFFDIO_WRITEPROTECT = 0x06  # 5.7
_UFFDIO_CONTINUE = 0x07  # 5.13
_UFFDIO_POISON = 0x08  # 6.6
_UFFDIO_RWPROTECT = 0x09  # 7.3
_UFFDIO_SET_MODE = 0x0A  # 7.3
_UFFDIO_API = 0x3F

# The type byte of every command.
UFFDIO = 0xAA

# What UFFDIO_API may answer in uffdio_api.ioctls.
UFFD_API_IOCTLS = (
    1 << _UFFDIO_REGISTER | 1 << _UFFDIO_UNREGISTER | 1 << _UFFDIO_SET_MODE | 1 << _UFFDIO_API
)

# What UFFDIO_REGISTER may answer in uffdio_register.ioctls when the range contains hugetlbfs
# memory, which has neither ZEROPAGE nor MOVE.
UFFD_API_RANGE_IOCTLS_BASIC = (
    1 << _UFFDIO_WAKE
    | 1 << _UFFDIO_COPY
    | 1 << _UFFDIO_WRITEPROTECT
    | 1 << _UFFDIO_CONTINUE
    | 1 << _UFFDIO_POISON
    | 1 << _UFFDIO_RWPROTECT
)

# The same for all other memory. WRITEPROTECT, CONTINUE and RWPROTECT appear only with their mode.
UFFD_API_RANGE_IOCTLS = UFFD_API_RANGE_IOCTLS_BASIC | 1 << _UFFDIO_ZEROPAGE | 1 << _UFFDIO_MOVE

# --- UFFDIO_API: the handshake -------------------------------------------------------------------

UFFD_API = 0xAA

# Features that change what the descriptor does, and so have to be asked for.
UFFD_FEATURE_EVENT_FORK = 1 << 1  # 4.11; needs CAP_SYS_PTRACE
UFFD_FEATURE_EVENT_REMAP = 1 << 2  # 4.11; mremap(2) sends a message
UFFD_FEATURE_EVENT_REMOVE = 1 << 3  # 4.11; madvise(2) that drops pages sends a message
UFFD_FEATURE_EVENT_UNMAP = 1 << 6  # 4.11; munmap(2) sends a message
UFFD_FEATURE_SIGBUS = 1 << 7  # 4.14; a fault raises SIGBUS and sends no message
UFFD_FEATURE_THREAD_ID = 1 << 8  # 4.14; messages carry the thread that faulted
UFFD_FEATURE_EXACT_ADDRESS = 1 << 11  # 5.18; the address in a message is not rounded to a page
UFFD_FEATURE_WP_UNPOPULATED = 1 << 13  # 6.4; write protection holds on empty anonymous pages too
UFFD_FEATURE_WP_ASYNC = 1 << 15  # 6.7; the kernel lifts write protection itself; implies bit 13
UFFD_FEATURE_RWP = 1 << 17  # 7.3; allows UFFDIO_REGISTER_MODE_RWP
UFFD_FEATURE_RWP_ASYNC = 1 << 18  # 7.3; the kernel lifts RW protection itself; needs RWP

# Features that are only reported: what they announce works without asking.
UFFD_FEATURE_PAGEFAULT_FLAG_WP = 1 << 0  # 5.7; write protection of anonymous memory
UFFD_FEATURE_MISSING_HUGETLBFS = 1 << 4  # 4.11
UFFD_FEATURE_MISSING_SHMEM = 1 << 5  # 4.11
UFFD_FEATURE_MINOR_HUGETLBFS = 1 << 9  # 5.13
UFFD_FEATURE_MINOR_SHMEM = 1 << 10  # 5.14
UFFD_FEATURE_WP_HUGETLBFS_SHMEM = 1 << 12  # 5.19
UFFD_FEATURE_POISON = 1 << 14  # 6.6; UFFDIO_POISON
UFFD_FEATURE_MOVE = 1 << 16  # 6.8; UFFDIO_MOVE

UFFD_API_FEATURES = (
    UFFD_FEATURE_PAGEFAULT_FLAG_WP
    | UFFD_FEATURE_EVENT_FORK
    | UFFD_FEATURE_EVENT_REMAP
    | UFFD_FEATURE_EVENT_REMOVE
    | UFFD_FEATURE_MISSING_HUGETLBFS
    | UFFD_FEATURE_MISSING_SHMEM
    | UFFD_FEATURE_EVENT_UNMAP
    | UFFD_FEATURE_SIGBUS
    | UFFD_FEATURE_THREAD_ID
    | UFFD_FEATURE_MINOR_HUGETLBFS
    | UFFD_FEATURE_MINOR_SHMEM
    | UFFD_FEATURE_EXACT_ADDRESS
    | UFFD_FEATURE_WP_HUGETLBFS_SHMEM
    | UFFD_FEATURE_WP_UNPOPULATED
    | UFFD_FEATURE_POISON
    | UFFD_FEATURE_WP_ASYNC
    | UFFD_FEATURE_MOVE
    | UFFD_FEATURE_RWP
    | UFFD_FEATURE_RWP_ASYNC
)

# `features` goes in as what is asked for and comes back as everything the kernel has.
uffdio_api = Layout("uffdio_api", ("api", U64), ("features", U64), ("ioctls", U64))
UFFDIO_API = iowr(UFFDIO, _UFFDIO_API, uffdio_api)

# UFFDIO_SET_MODE switches a feature of a live descriptor: two masks of UFFD_FEATURE_* bits that
# must not overlap. 7.3 accepts UFFD_FEATURE_RWP_ASYNC and nothing else.
uffdio_set_mode = Layout("uffdio_set_mode", ("enable", U64), ("disable", U64))
UFFDIO_SET_MODE = iow(UFFDIO, _UFFDIO_SET_MODE, uffdio_set_mode)  # 7.3

# --- Registering memory --------------------------------------------------------------------------

uffdio_range = Layout("uffdio_range", ("start", U64), ("len", U64))

UFFDIO_REGISTER_MODE_MISSING = 1 << 0  # a fault on a page that is not there
UFFDIO_REGISTER_MODE_WP = 1 << 1  # 5.7; a write to a page that is write-protected
UFFDIO_REGISTER_MODE_MINOR = 1 << 2  # 5.13; the file has the page, this mapping does not
UFFDIO_REGISTER_MODE_RWP = 1 << 3  # 7.3; any access to a page that is RW-protected; excludes WP

UFFD_API_REGISTER_MODES = (
    UFFDIO_REGISTER_MODE_MISSING
    | UFFDIO_REGISTER_MODE_WP
    | UFFDIO_REGISTER_MODE_MINOR
    | UFFDIO_REGISTER_MODE_RWP
)

uffdio_register = Layout("uffdio_register", ("range", uffdio_range), ("mode", U64), ("ioctls", U64))
UFFDIO_REGISTER = iowr(UFFDIO, _UFFDIO_REGISTER, uffdio_register)

# These two are declared as reading but take their argument from the caller.
UFFDIO_UNREGISTER = ior(UFFDIO, _UFFDIO_UNREGISTER, uffdio_range)
UFFDIO_WAKE = ior(UFFDIO, _UFFDIO_WAKE, uffdio_range)

# --- Messages ------------------------------------------------------------------------------------

UFFD_EVENT_PAGEFAULT = 0x12
UFFD_EVENT_FORK = 0x13  # 4.11
UFFD_EVENT_REMAP = 0x14  # 4.11
UFFD_EVENT_REMOVE = 0x15  # 4.11
UFFD_EVENT_UNMAP = 0x16  # 4.11

# A MISSING fault has none of WP, MINOR, RWP; the others have exactly one of them.
UFFD_PAGEFAULT_FLAG_WRITE = 1 << 0
UFFD_PAGEFAULT_FLAG_WP = 1 << 1  # 5.7
UFFD_PAGEFAULT_FLAG_MINOR = 1 << 2  # 5.13
UFFD_PAGEFAULT_FLAG_RWP = 1 << 3  # 7.3

# read(2) gives whole `struct uffd_msg`: 32 packed bytes, the event in the first one and a union
# from byte 8 on. In Python that is one Layout for what all messages share and one for each kind,
# all of them 32 bytes long.
uffd_msg = Layout(
    "uffd_msg",
    ("event", U8),
    ("reserved1", Reserved(U8)),
    ("reserved2", Reserved(U16)),
    ("reserved3", Reserved(U32)),
    packed=True,
    size=32,
)
uffd_msg_pagefault = Layout(
    "uffd_msg_pagefault",
    ("event", U8),
    ("flags", U64, 8),
    ("address", U64, 16),
    ("ptid", U32, 24),  # 4.14; zero without UFFD_FEATURE_THREAD_ID
    packed=True,
    size=32,
)
uffd_msg_fork = Layout("uffd_msg_fork", ("event", U8), ("ufd", U32, 8), packed=True, size=32)
uffd_msg_remap = Layout(
    "uffd_msg_remap",
    ("event", U8),
    ("from", U64, 8),
    ("to", U64, 16),
    ("len", U64, 24),
    packed=True,
    size=32,
)
uffd_msg_remove = Layout(
    "uffd_msg_remove", ("event", U8), ("start", U64, 8), ("end", U64, 16), packed=True, size=32
)

# Which of them a message is. An unmap event carries the payload of a remove event.
UFFD_MSG_LAYOUTS = {
    UFFD_EVENT_PAGEFAULT: uffd_msg_pagefault,
    UFFD_EVENT_FORK: uffd_msg_fork,
    UFFD_EVENT_REMAP: uffd_msg_remap,
    UFFD_EVENT_REMOVE: uffd_msg_remove,
    UFFD_EVENT_UNMAP: uffd_msg_remove,
}

# --- Filling pages -------------------------------------------------------------------------------

# The last field is the answer: bytes done, or a negative errno.

UFFDIO_COPY_MODE_DONTWAKE = 1 << 0
UFFDIO_COPY_MODE_WP = 1 << 1  # 5.7

uffdio_copy = Layout(
    "uffdio_copy", ("dst", U64), ("src", U64), ("len", U64), ("mode", U64), ("copy", S64)
)
UFFDIO_COPY = iowr(UFFDIO, _UFFDIO_COPY, uffdio_copy)

UFFDIO_ZEROPAGE_MODE_DONTWAKE = 1 << 0

uffdio_zeropage = Layout(
    "uffdio_zeropage", ("range", uffdio_range), ("mode", U64), ("zeropage", S64)
)
UFFDIO_ZEROPAGE = iowr(UFFDIO, _UFFDIO_ZEROPAGE, uffdio_zeropage)

UFFDIO_CONTINUE_MODE_DONTWAKE = 1 << 0
UFFDIO_CONTINUE_MODE_WP = 1 << 1  # 6.4

uffdio_continue = Layout("uffdio_continue", ("range", uffdio_range), ("mode", U64), ("mapped", S64))
UFFDIO_CONTINUE = iowr(UFFDIO, _UFFDIO_CONTINUE, uffdio_continue)  # 5.13

UFFDIO_POISON_MODE_DONTWAKE = 1 << 0

uffdio_poison = Layout("uffdio_poison", ("range", uffdio_range), ("mode", U64), ("updated", S64))
UFFDIO_POISON = iowr(UFFDIO, _UFFDIO_POISON, uffdio_poison)  # 6.6

UFFDIO_MOVE_MODE_DONTWAKE = 1 << 0
UFFDIO_MOVE_MODE_ALLOW_SRC_HOLES = 1 << 1

uffdio_move = Layout(
    "uffdio_move", ("dst", U64), ("src", U64), ("len", U64), ("mode", U64), ("move", S64)
)
UFFDIO_MOVE = iowr(UFFDIO, _UFFDIO_MOVE, uffdio_move)  # 6.8

# --- Protecting pages ----------------------------------------------------------------------------

# Without the mode bit that protects, the range is un-protected and its waiters wake.

UFFDIO_WRITEPROTECT_MODE_WP = 1 << 0
UFFDIO_WRITEPROTECT_MODE_DONTWAKE = 1 << 1

uffdio_writeprotect = Layout("uffdio_writeprotect", ("range", uffdio_range), ("mode", U64))
UFFDIO_WRITEPROTECT = iowr(UFFDIO, _UFFDIO_WRITEPROTECT, uffdio_writeprotect)  # 5.7

UFFDIO_RWPROTECT_MODE_RWP = 1 << 0
UFFDIO_RWPROTECT_MODE_DONTWAKE = 1 << 1

uffdio_rwprotect = Layout("uffdio_rwprotect", ("range", uffdio_range), ("mode", U64))
UFFDIO_RWPROTECT = iowr(UFFDIO, _UFFDIO_RWPROTECT, uffdio_rwprotect)  # 7.3
