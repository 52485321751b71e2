"""The system calls of `userfault.kernel.calls`, as a table from call to what the kernel does.

Each function runs in the calling task and returns a Result, or raises Errno or Signalled.
"""

from userfault.model.faces.syscalls import (
    files,
    guests,
    memory,
    processes,
    segments,
    transfers,
    userfaultfd,
    witnesses,
)
from userfault.model.faces.syscalls.table import perform

__all__ = [
    "files",
    "guests",
    "memory",
    "perform",
    "processes",
    "segments",
    "transfers",
    "userfaultfd",
    "witnesses",
]
