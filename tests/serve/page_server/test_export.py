"""A dump in a store becomes the images of a dump again, page for page."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from cli.commands import userfault
from serve.page_server.peer import LAZY, PAGE, PRESENT, Peer, page_server, pages
from snapshot.dumps import Dump, area, write_image
from userfault.serve.page_server.giving import FromImages, FromStore, Giving
from userfault.snapshot.inputs.criu_images import page_map
from userfault.wire.criu.page_server import Command, PageMap, Request

HEAP, STACK = 0x5500_0000_0000, 0x7FFF_0000_0000
MAPS = (PageMap(7), PageMap(8), PageMap(99, shared=True))
# Of each map: address, pages, flags.
RANGES = ((HEAP, 300, PRESENT | LAZY), (HEAP + 400 * PAGE, 5, PRESENT), (STACK, 2, PRESENT | LAZY))


def in_store(folder: Path) -> str:
    with page_server(folder, into=f"{folder}/store/d") as server:
        peer = Peer(server.address)
        for held in MAPS:
            kind = 2 if held.shared else 1
            peer.open(held.number, kind)
            for number, (address, count, flags) in enumerate(RANGES):
                peer.add(held.number, address, pages(held.number + number, count), flags, kind)
        assert peer.close() == 0
    return f"{folder}/store/d"


def given(source: Giving, held: PageMap, address: int, count: int) -> bytes:
    found = b""
    while len(found) < count * PAGE:
        left = count - len(found) // PAGE
        found += source.pages(Request(Command.GET, 0, left, address + len(found), held), 64)
    return found


def test_each_page_is_where_it_was(tmp_path: Path) -> None:
    snapshot, images = in_store(tmp_path), tmp_path / "images"
    images.mkdir()
    assert userfault("export", "--criu", snapshot, str(images)).returncode == 0
    write_image(images, "pstree", [])
    with (
        contextlib.closing(FromImages(str(images))) as source,
        contextlib.closing(FromStore(*os.path.split(snapshot))) as store,
    ):
        for held in MAPS:
            for number, (address, count, _) in enumerate(RANGES):
                expected = pages(held.number + number, count)
                assert given(source, held, address, count) == expected
                assert given(store, held, address, count) == expected
            entries = page_map(str(images), str(held))
            assert list(entries.flags) == [flags for *_, flags in RANGES]


def test_what_a_lazy_restore_asks_for_is_holes(tmp_path: Path) -> None:
    snapshot, images = in_store(tmp_path), tmp_path / "images"
    images.mkdir()
    assert userfault("export", "--criu", "--lazy", snapshot, str(images)).returncode == 0
    write_image(images, "pstree", [])
    with contextlib.closing(FromImages(str(images))) as source:
        for held in MAPS:
            for number, (address, count, flags) in enumerate(RANGES):
                expected = pages(held.number + number, count)
                if flags & LAZY:
                    expected = bytes(len(expected))
                assert given(source, held, address, count) == expected
    for file in images.glob("pages-*.img"):
        assert file.stat().st_size == 307 * PAGE
        assert file.stat().st_blocks * 512 <= 16 * PAGE


def test_another_snapshot_is_refused(tmp_path: Path) -> None:
    (tmp_path / "raw").write_bytes(bytes(PAGE))
    assert userfault("pack", str(tmp_path / "raw"), f"{tmp_path}/store/raw").returncode == 0
    done = userfault("export", "--criu", f"{tmp_path}/store/raw", str(tmp_path))
    assert done.returncode == 2
    assert "process tree" in done.stderr


def test_memory_of_another_dump_is_not_overwritten(tmp_path: Path) -> None:
    snapshot, images = in_store(tmp_path), tmp_path / "images"
    images.mkdir()
    (images / "pages-1.img").write_bytes(b"of another dump")
    done = userfault("export", "--criu", snapshot, str(images))
    assert done.returncode == 2
    assert "pages-1.img" in done.stderr
    assert [each.name for each in images.iterdir()] == ["pages-1.img"]


def test_what_has_the_lazy_pages_alone_is_refused(tmp_path: Path) -> None:
    dump = Dump(tmp_path / "packed", (7,))
    dump.memory(7, area(HEAP, HEAP + 4 * PAGE))
    dump.pages("7", 1, (HEAP, pages(1, 4), PRESENT | LAZY))
    packed = f"{tmp_path}/store/packed"
    assert userfault("pack", "--criu", str(dump.folder), packed).returncode == 0
    (tmp_path / "empty").mkdir()
    done = userfault("export", "--criu", packed, str(tmp_path / "empty"))
    assert done.returncode == 2
    assert "lazy restore" in done.stderr
