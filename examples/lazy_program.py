"""A program that knows nothing of this package reads a file of 64 MiB with 1 MiB of it in memory.

`userfault exec` does it: the program maps the file as ever, and its mapping is lazy memory.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

PROGRAM = """
import mmap, zlib
with open("data", "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as shown:
    total = 0
    for at in range(0, len(shown), 1 << 20):
        total = zlib.crc32(shown[at : at + (1 << 20)], total)
with open("/proc/self/status") as file:
    status = dict(line.split(":", 1) for line in file)
print(f"checksum {total:08x}, at most {int(status['VmHWM'].split()[0]) >> 10} MiB of memory")
"""


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        block = os.urandom(1 << 20)
        Path(folder, "data").write_bytes(block * 64)
        program = [sys.executable, "-I", "-S", "-c", PROGRAM]
        lazily = [sys.executable, "-m", "userfault", "exec", "--map", "data", "--resident", "1M"]
        for name, command in (("mapped", program), ("lazy", [*lazily, "--", *program])):
            print(f"{name:>8}:", end=" ", flush=True)
            subprocess.run(command, cwd=folder, check=True)


if __name__ == "__main__":
    main()
