"""A snapshot in a store as lazy memory: each touch reads, verifies and unpacks one chunk."""

from __future__ import annotations

import tempfile
from pathlib import Path

import userfault
from userfault.snapshot.inputs.file import FileInput
from userfault.snapshot.packing.pack import pack
from userfault.snapshot.stores.opening import open_objects

MIB = 1 << 20


def main() -> None:
    """Pack an image (as `userfault pack` does), restore a part of it, then all of it."""
    with tempfile.TemporaryDirectory() as folder:
        image = Path(folder) / "guest.mem"
        lines = b"".join(b"line %d of a log that the guest keeps\n" % n for n in range(400_000))
        image.write_bytes(lines.ljust(16 * MIB, b"\0") + bytes(48 * MIB))
        store = Path(folder) / "store"
        source = FileInput(image)
        packed = pack(open_objects(store), "guest", source)
        source.close()
        print(f"packed {packed.length // MIB} MiB into {packed.chunk_bytes // 1024} KiB")

        # In place of the path: s3://bucket/prefix/guest, with the usual credentials.
        policy = userfault.Policy(background=False)
        with userfault.lazy(store / "guest", policy=policy) as memory:
            print(memory[8 * MIB : 8 * MIB + 80].split(b"\n")[1].decode())
            states, read = memory.statistics().states, memory.statistics().store
            print("pages present:", states["present"], "- chunks unpacked:", read and read.unpacked)
            memory.complete()
            print("all of it is right:", memory[:] == image.read_bytes())
            print("pages of zeros, which cost no read:", memory.statistics().counters.zeroed)


if __name__ == "__main__":
    main()
