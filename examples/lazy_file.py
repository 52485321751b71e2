"""A file as lazy memory: only what is touched is read, until the background fill has it all."""

from __future__ import annotations

import tempfile

import userfault

MIB = 1 << 20


def main() -> None:
    """Map a file of 64 MiB, look at three places, then wait for the rest."""
    with tempfile.NamedTemporaryFile() as file:
        for number in range(64):
            file.write(bytes([number]) * MIB)
        file.flush()
        # Without background fill one sees what a touch brings in.
        policy = userfault.Policy(background=False)
        with userfault.lazy(file.name, policy=policy) as memory, memoryview(memory) as view:
            print("three bytes:", view[0], view[31 * MIB], view[63 * MIB])
            states = memory.statistics().states
            print("pages present:", states["present"], "of", memory.statistics().pages)
            memory.prefetch(8 * MIB, 9 * MIB)  # soon, without waiting
            memory.complete()
            counters = memory.statistics().counters
            print("faults:", counters.faults, "- pages copied:", counters.copied)
            print("a slice, not copied:", bytes(view[8 * MIB - 2 : 8 * MIB + 2]))


if __name__ == "__main__":
    main()
