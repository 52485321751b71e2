"""Packs one image, and says how long that took: `python -m bench.packing IMAGE STORE NAME LEVEL`.

A process of its own, so that its memory can be told.  The clock starts when everything is imported.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import msgspec

from userfault.snapshot.inputs.file import FileInput
from userfault.snapshot.packing.pack import pack
from userfault.snapshot.stores.opening import open_objects


class Took(msgspec.Struct):
    """Seconds by the clock, seconds of CPU time of all threads, bytes of memory at the most."""

    wall_s: float
    cpu_s: float
    peak: int


def main() -> None:
    """Pack, and print what it took."""
    image, store, name, level = sys.argv[1:]
    source = FileInput(image)
    start, used = time.perf_counter(), time.process_time()
    pack(open_objects(store), name, source, level=int(level))
    took = Took(time.perf_counter() - start, time.process_time() - used, _peak())
    source.close()
    print(msgspec.json.encode(took).decode(), flush=True)


def _peak() -> int:
    """The most memory that this process has used (ru_maxrss would tell its parent's, if larger)."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) << 10
    return 0


if __name__ == "__main__":
    main()
