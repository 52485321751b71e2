"""One pager for several memories, of different types: a further one costs no further process."""

from __future__ import annotations

import time

import userfault

SIZE = 16 << 20


def main() -> None:
    """Serve three memories from one pager."""
    with userfault.Pager() as pager:
        begun = time.perf_counter()
        with (
            userfault.lazy(b"first page " * 1000, pager=pager) as text,
            userfault.lazy(bytes(range(256)) * (SIZE // 256), memory="shmem", pager=pager) as data,
            userfault.lazy(userfault.zero(1 << 30), writable=True, pager=pager) as room,
        ):
            print(f"three memories after {(time.perf_counter() - begun) * 1000:.0f} ms")
            room[-1] = 7
            print("text:", bytes(text[:10]), "- data:", data[255], "- room:", room[0], room[-1])
            data.complete()
            for name, memory in (("text", text), ("data", data), ("room", room)):
                found = memory.statistics()
                faults = found.counters.faults
                print(f"{name}: {found.memory}, {faults} faults, pager {found.pager_pid}")


if __name__ == "__main__":
    main()
