"""The library that is preloaded: compiled on first use, into the user's cache folder.

The numbers of the kernel come from `uapi`, so no kernel headers are needed; and what was compiled
is asked whether it is of this release before any program gets it.
"""

from __future__ import annotations

import ctypes
import platform
from pathlib import Path

from userfault.check.live.agent.build import build
from userfault.exec import words
from userfault.kernel.errors import Unavailable
from userfault.uapi import userfaultfd as abi

SOURCE = Path(__file__).with_name("preload.c")
MACHINES = ("x86_64", "aarch64")  # whose system calls it knows, and which have 64 bits
_OPTIONS = (
    *("-O2", "-std=gnu11", "-D_GNU_SOURCE", "-shared", "-fPIC", "-fvisibility=hidden"),
    # No C library is linked: what it needs of one it finds in the program's.
    *("-nostdlib", "-fno-stack-protector", "-Wl,-z,now", "-Wl,-soname,userfault-exec"),
    f"-DMAGIC={words.MAGIC:#x}u",
    f"-DMESSAGE_BYTES={words.BYTES}",
    f"-DUFFD_API={abi.UFFD_API:#x}",
    f"-DUFFDIO_API={abi.UFFDIO_API:#x}ul",
    f"-DUFFDIO_REGISTER={abi.UFFDIO_REGISTER:#x}ul",
    f"-DUFFD_USER_MODE_ONLY={abi.UFFD_USER_MODE_ONLY}",
    f"-DUSERFAULTFD_IOC_NEW={abi.USERFAULTFD_IOC_NEW:#x}",
)


def library() -> Path:
    """The library, compiled if it is not there yet.  Raises Unavailable."""
    if platform.machine() not in MACHINES:
        raise Unavailable(
            f"cannot run here: no library to preload for {platform.machine()}",
            cause=f"it knows the system calls of {', '.join(MACHINES)}",
        )
    path = build(SOURCE, _OPTIONS)
    _check(path)
    return path


def _check(path: Path) -> None:
    try:
        magic = ctypes.CDLL(str(path)).userfault_exec_magic
        magic.restype = ctypes.c_uint32
        found = magic()
    except (OSError, AttributeError) as error:
        raise Unavailable(
            f"cannot use {path}",
            cause=str(error),
            cure="remove it, and it is made anew; a folder mounted noexec needs XDG_CACHE_HOME"
            " to be set to another one",
        ) from None
    if found != words.MAGIC:
        raise Unavailable(
            f"cannot use {path}",
            cause=f"it is of another release ({found:#x}, wanted {words.MAGIC:#x})",
            cure="remove it, and it is made anew",
        )
