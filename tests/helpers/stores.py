"""Images with pages of every class, and stores that hold them."""

from __future__ import annotations

import random
from pathlib import Path

from helpers.pages import PAGE
from userfault.snapshot.inputs.file import FileInput
from userfault.snapshot.packing.pack import pack
from userfault.snapshot.serving.image import open_image
from userfault.snapshot.stores.keys import chunk_key
from userfault.snapshot.stores.opening import open_objects


def memory(pages: int, seed: int = 1) -> bytes:
    """Runs of zeros, of repeated words, of text, of chance, and of pages that were there before."""
    dice = random.Random(seed)
    found: list[bytes] = []
    while len(found) < pages:
        run = dice.choice((1, 1, 2, 3, 5, 8, 13, 40))
        kind = dice.choice(("zeros", "word", "text", "text", "chance", "again"))
        for number in range(len(found), len(found) + run):
            if kind == "zeros":
                found.append(bytes(PAGE))
            elif kind == "word":
                found.append((seed + run).to_bytes(8, "little") * (PAGE // 8))
            elif kind == "again" and found:
                found.append(dice.choice(found))
            elif kind == "chance":
                found.append(dice.randbytes(PAGE))
            else:
                found.append((f"page {number} of image {seed}. " * PAGE).encode()[:PAGE])
    return b"".join(found[:pages])


def store(folder: Path, name: str, data: bytes, base: str | None = None) -> Path:
    """Pack `data` into the store at `folder`; the path that names the snapshot."""
    image = folder.with_name(f"{folder.name}-{name}.image")
    image.write_bytes(data)
    source = FileInput(image)
    try:
        pack(open_objects(folder), name, source, base=base)
    finally:
        source.close()
    image.unlink()
    return folder / name


def chunk_files(folder: Path, name: str) -> list[Path]:
    """The files of a snapshot's chunks, in the order of its table."""
    chunks = open_image(open_objects(folder), name).chunks
    return [folder / chunk_key(chunks.digest(number)) for number in range(len(chunks))]


def pages_of_chunk(folder: Path, name: str, number: int) -> list[int]:
    """The pages of a snapshot whose bytes are in chunk `number` of its table."""
    image = open_image(open_objects(folder), name)
    digest = image.chunks.digest(number)
    return [
        page
        for extent in image.extents(0, image.pages)
        if extent.kind.name == "CHUNK" and image.chunks.digest(extent.chunk) == digest
        for page in range(extent.page, extent.page + extent.count)
    ]
