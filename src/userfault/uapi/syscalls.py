"""System call numbers for calls that a C library may have no function for.

The outer key is the machine as os.uname() names it. Calls newer than 5.0 have one number
everywhere; userfaultfd is older than that agreement.

Source: asm/unistd_64.h of x86-64 and asm-generic/unistd.h (aarch64), Linux 7.3.
"""

from __future__ import annotations

_EVERYWHERE = {
    "pidfd_send_signal": 424,  # 5.1
    "pidfd_getfd": 438,  # 5.6
    "process_madvise": 440,  # 5.10
    "cachestat": 451,  # 6.5
}

SYSCALLS = {
    "x86_64": {"clone": 56, "futex": 202, "userfaultfd": 323, **_EVERYWHERE},
    "aarch64": {"clone": 220, "futex": 98, "userfaultfd": 282, **_EVERYWHERE},
}
