"""A store of memory images: pack one, then what changed since, compare the two, get one back.

The same with commands: `userfault pack first.mem store/first`, `userfault pack second.mem
store/second --base first`, `userfault diff store/first second`, `userfault export store/second
again.mem`.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from tempfile import TemporaryDirectory

from userfault.snapshot.inputs.file import FileInput
from userfault.snapshot.packing.pack import Packed, pack
from userfault.snapshot.serving.image import open_image
from userfault.snapshot.serving.reading import open_reader
from userfault.snapshot.stores.opening import open_objects
from userfault.snapshot.upkeep.diff import diff
from userfault.snapshot.upkeep.export import export_raw

PAGE = 4096


def memory(words: int) -> bytes:
    """8 MiB of memory: zeros, some text, noise, and the noise once more."""
    text = b"".join(b"%d words of text. " % n for n in range(words)).ljust(2 << 20, b".")
    noise = os.urandom(1 << 20)
    return bytes(4 << 20) + text[: 2 << 20] + noise + noise


def packed(store: Path, name: str, image: Path, base: str | None = None) -> Packed:
    """Store an image under a name."""
    with contextlib.closing(FileInput(image)) as pages:
        return pack(open_objects(store), name, pages, base=base)


def main() -> None:
    """Two images, of which the second differs from the first in three pages."""
    with TemporaryDirectory() as folder:
        store, first, second = (Path(folder) / name for name in ("store", "first", "second"))
        image = bytearray(memory(10_000))
        first.write_bytes(image)
        for page in (5, 1100, 1101):
            image[page * PAGE : (page + 1) * PAGE] = os.urandom(PAGE)
        second.write_bytes(image)

        done = packed(store, "first", first)
        print(f"first: {done.pages} pages, {done.zero} zero, {done.duplicate} duplicates;")
        print(f"  {done.length} bytes became {done.chunk_bytes + done.manifest_bytes}")
        done = packed(store, "second", second, base="first")
        print(f"second: {done.stored} pages stored, {done.parent} are as in the base")

        old, new = (open_image(open_objects(store), name) for name in ("first", "second"))
        with contextlib.closing(open_reader(str(store))) as reader:
            for found in diff(old, reader, new, reader):
                print(f"{found.change.value}: {found.pages} pages at {found.start:#x}")
            export_raw(new, reader, f"{folder}/again")
        same = Path(folder, "again").read_bytes() == bytes(image)
        print("what comes out is what went in:", same)


if __name__ == "__main__":
    main()
