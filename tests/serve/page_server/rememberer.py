"""A program to be dumped and restored: it knows what its memory holds, and says whether it does.

Run with a folder: a tree of two processes, which wait for the file `go` in it.  Each then writes
`said-PID`: whether every byte is what it was.
"""

from __future__ import annotations

import hashlib
import os
import sys
import time
from pathlib import Path

_BYTES = 4 << 20


def main() -> None:
    folder = Path(sys.argv[1])
    noise = os.urandom(_BYTES)
    words = bytearray(b"all of it is to come back ") * (_BYTES // 26)
    digests = [hashlib.sha256(each).digest() for each in (noise, words)]
    os.fork()
    (folder / f"ready-{os.getpid()}").touch()
    while not (folder / "go").exists():
        time.sleep(0.02)
    right = digests == [hashlib.sha256(each).digest() for each in (noise, words)]
    (folder / f"part-{os.getpid()}").write_text(str(right))
    (folder / f"part-{os.getpid()}").rename(folder / f"said-{os.getpid()}")
    time.sleep(1000)


if __name__ == "__main__":
    main()
