"""What programs do with mappings of a file, as scripts: `python scenes.py SCENE FILE [MORE]`.

They know nothing of userfault, nor of each other.  Each prints what it saw.
"""

from __future__ import annotations

import ctypes
import hashlib
import mmap
import os
import signal
import subprocess
import sys
import threading
import time

LAZY = "memfd:userfault-exec"


def told(*what: object) -> None:
    print(*what, flush=True)


def digest(data: object) -> str:
    return hashlib.sha256(data).hexdigest()  # type: ignore[arg-type]


def opened(path: str, flags: int = os.O_RDONLY) -> int:
    return os.open(path, flags)


def reads(path: str) -> None:
    """The same bytes, however it is mapped."""
    fd = opened(path)
    for access in (mmap.ACCESS_READ, mmap.ACCESS_COPY):
        told(digest(mmap.mmap(fd, 0, access=access)))
    told(digest(mmap.mmap(fd, 0, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ)))
    told(digest(mmap.mmap(fd, 8192, access=mmap.ACCESS_READ, offset=4096)))


def lazily(path: str) -> None:
    """How many of its mappings are memory of the pager's, and what is in after one touch."""
    shown = mmap.mmap(opened(path), 0, access=mmap.ACCESS_READ)
    told(shown[5 << 20])
    with open("/proc/self/smaps") as file:
        lines = iter(file.read().splitlines())
    resident = [
        int(next(line for line in lines if line.startswith("Rss:")).split()[1])
        for line in lines
        if LAZY in line
    ]
    told(len(resident), sum(resident) < 2048)


def bounded(path: str) -> None:
    """The most that the mapping ever had in, in KiB."""
    shown = mmap.mmap(opened(path), 0, access=mmap.ACCESS_READ)
    most = 0
    hashed = hashlib.sha256()
    for at in range(0, len(shown), 1 << 20):
        hashed.update(shown[at : at + (1 << 20)])
        with open("/proc/self/status") as file:
            most = max(most, *(int(ln.split()[1]) for ln in file if ln.startswith("RssShmem:")))
    told(hashed.hexdigest(), most)


def writes(path: str) -> None:
    """Private writes are private; shared ones are seen by whoever maps it to be written."""
    fd = opened(path, os.O_RDWR)
    private = mmap.mmap(fd, 0, access=mmap.ACCESS_COPY)
    private[:4] = b"mine"
    first, second = (mmap.mmap(fd, 0) for _ in range(2))
    first[4096:4100] = b"ours"
    told(bytes(private[:4]), bytes(second[4096:4100]), digest(second[8192:]))
    if (child := os.fork()) == 0:
        third = mmap.mmap(opened(path, os.O_RDWR), 0)
        told(bytes(third[4096:4100]), bytes(third[:4]) != b"mine")
        os._exit(0)
    os.waitpid(child, 0)


def forks(path: str) -> None:
    """A child has what its parent has mapped, filled or not."""
    shown = [mmap.mmap(opened(path), 0, access=a) for a in (mmap.ACCESS_READ, mmap.ACCESS_COPY)]
    touched = shown[0][0]
    if (child := os.fork()) == 0:
        told(touched, *(digest(each) for each in shown))
        os._exit(0)
    told(os.waitpid(child, 0)[1])
    told(*(digest(each) for each in shown))


def threads(path: str) -> None:
    """Many map it at the same time, many times."""
    fd, found = opened(path), []

    def again() -> None:
        for _ in range(4):
            shown = mmap.mmap(fd, 1 << 20, access=mmap.ACCESS_READ, offset=1 << 20)
            found.append(digest(shown))
            shown.close()

    workers = [threading.Thread(target=again) for _ in range(6)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    told(len(found), *set(found))


def execs(path: str) -> None:
    """A program that a program starts."""
    subprocess.run([sys.executable, "-I", "-S", __file__, "lazily", path], check=True)


def leaves(path: str) -> None:
    """Ends at once, and leaves a child that maps it later."""
    if os.fork() == 0:
        time.sleep(0.5)
        told(digest(mmap.mmap(opened(path), 0, access=mmap.ACCESS_READ)))
        os._exit(0)
    os._exit(7)


def beyond(path: str) -> None:
    """The rest of the last page is zeros; behind that SIGBUS."""
    size = os.stat(path).st_size
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mmap.restype = ctypes.c_void_p
    length = (size + 3 * 4096) // 4096 * 4096
    at = libc.mmap(None, ctypes.c_size_t(length), 1, 1, opened(path), ctypes.c_long(0))
    rest = (ctypes.c_char * (-size % 4096)).from_address(at + size)
    told(bytes(rest) == bytes(len(rest)))
    if (child := os.fork()) == 0:
        signal.signal(signal.SIGBUS, signal.SIG_DFL)
        ctypes.string_at(at + length - 4096, 1)
        os._exit(0)
    told(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))


def moves(path: str) -> None:
    """What has moved shows the same; what would grow is refused, as it would show zeros."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mmap.restype = libc.mremap.restype = ctypes.c_void_p
    size = ctypes.c_size_t(1 << 20)
    at = ctypes.c_void_p(libc.mmap(None, size, 1, 1, opened(path), ctypes.c_long(0)))
    to = ctypes.c_void_p(libc.mmap(None, size, 0, 0x22, -1, ctypes.c_long(0)))
    grown = libc.mremap(at, size, ctypes.c_size_t(2 << 20), 1)
    told(ctypes.c_void_p(grown).value == ctypes.c_void_p(-1).value, ctypes.get_errno())
    moved = libc.mremap(at, size, size, 3, to)
    told(digest(ctypes.string_at(moved, 1 << 20)))


def fails(path: str) -> None:
    """mmap(2), with no descriptor left."""
    import resource

    fd = opened(path)
    resource.setrlimit(resource.RLIMIT_NOFILE, (fd + 1, fd + 1))
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mmap.restype = ctypes.c_void_p
    at = libc.mmap(None, ctypes.c_size_t(1 << 20), 1, 1, fd, ctypes.c_long(0))
    if ctypes.c_void_p(at).value == ctypes.c_void_p(-1).value:
        told("errno", ctypes.get_errno())
    else:
        told(digest(ctypes.string_at(at, 1 << 20)))


def numpys(path: str) -> None:
    import numpy

    told(int(numpy.memmap(path, dtype="u1", mode="r").astype("u8").sum()))


def sqlites(path: str) -> None:
    import sqlite3

    database = sqlite3.connect(f"file:{path}?mode=ro", uri=True)
    database.execute("pragma mmap_size = 268435456")
    told(database.execute("select count(*), sum(length(b)) from t").fetchone())
    with open("/proc/self/maps") as file:
        told(LAZY in file.read())


def waits(path: str, said: str) -> None:
    """Says that it is half through, goes on when it is told, by a file or a signal."""
    shown = mmap.mmap(opened(path), 0, access=mmap.ACCESS_READ)
    half = len(shown) // 2
    before = digest(shown[:half])
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(9))
    with open(f"{said}.new", "w") as file:
        file.write(str(os.getpid()))
    os.rename(f"{said}.new", said)
    while os.path.exists(said):
        time.sleep(0.005)
    told(before, digest(shown[half:]))


def unmaps(path: str, said: str, offset: str) -> None:
    """A part of it, and waits to be let go."""
    shown = mmap.mmap(opened(path), 1 << 20, access=mmap.ACCESS_READ, offset=int(offset))
    told(shown[5000])
    shown.close()
    with open(f"{said}.new", "w") as file:
        file.write("unmapped")
    os.rename(f"{said}.new", said)
    while os.path.exists(said):
        time.sleep(0.005)


def ends(_path: str, how: str) -> None:
    if int(how) < 0:
        os.kill(os.getpid(), -int(how))
    sys.exit(int(how))


if __name__ == "__main__":
    globals()[sys.argv[1]](*sys.argv[2:])
