"""A dump that is sent to us is in the store when its sender is told so, and else it is not."""

from __future__ import annotations

import socket
import threading
from pathlib import Path

import pytest
from lz4.block import compress  # type: ignore[import-untyped]

from serve.page_server.peer import (
    COMPRESSED,
    LAZY,
    PAGE,
    PARENT,
    PRESENT,
    Peer,
    page_server,
    pages,
)
from userfault.serve.page_server.giving import FromStore
from userfault.snapshot.errors import NoSuchSnapshot
from userfault.snapshot.serving.image import open_image
from userfault.snapshot.stores.opening import open_objects
from userfault.snapshot.upkeep.verify import verify
from userfault.wire.criu.page_server import Command, PageMap, Request

HEAP, STACK = 0x5500_0000_0000, 0x7FFF_0000_0000


def stored(folder: Path, held: PageMap, address: int, count: int, name: str = "d") -> bytes:
    """What the snapshot has there."""
    source = FromStore(str(folder / "store"), name)
    try:
        found = b""
        while len(found) < count * PAGE:
            at = address + len(found)
            asked = Request(Command.GET, 0, count - len(found) // PAGE, at, held)
            found += source.pages(asked, 1 << 20)
        return found
    finally:
        source.close()


def is_there(folder: Path, name: str = "d") -> bool:
    try:
        open_image(open_objects(str(folder / "store")), name)
    except NoSuchSnapshot:
        return False
    return True


@pytest.mark.parametrize("short", [False, True])
def test_what_is_sent_is_stored(tmp_path: Path, short: bool) -> None:
    with page_server(tmp_path, into=f"{tmp_path}/store/d") as server:
        peer = Peer(server.address, short=short)
        assert peer.open(100) == 0
        peer.add(100, HEAP, pages(1, 3), PRESENT | LAZY)
        peer.add(100, HEAP + 3 * PAGE, pages(2, 300))
        peer.add(100, STACK, bytes(2 * PAGE))
        assert peer.open(77, kind=2) == 0
        peer.add(77, 0, pages(3, 1), kind=2)
        assert not is_there(tmp_path)
        assert peer.close() == 0
    assert stored(tmp_path, PageMap(100), HEAP, 303) == pages(1, 3) + pages(2, 300)
    assert stored(tmp_path, PageMap(100), STACK, 2) == bytes(2 * PAGE)
    assert stored(tmp_path, PageMap(77, shared=True), 0, 1) == pages(3, 1)
    objects = open_objects(str(tmp_path / "store"))
    assert verify(objects, "d").sound


def test_what_comes_byte_by_byte_is_the_same(tmp_path: Path) -> None:
    with page_server(tmp_path, into=f"{tmp_path}/store/d") as server:
        peer = Peer(server.address)
        peer.send(peer.head(4, to=5 << 8 | 1), step=1)
        assert peer.exactly(1) == b"\0"
        peer.send(peer.head(6 | 4 << 16, 1, HEAP, 5 << 8 | 1) + pages(4, 1), step=1)
        assert peer.close() == 0
    assert stored(tmp_path, PageMap(5), HEAP, 1) == pages(4, 1)


@pytest.mark.parametrize("at", ["a header", "a page", "the last page"])
def test_a_connection_that_ends_without_close_leaves_nothing(tmp_path: Path, at: str) -> None:
    with page_server(tmp_path, into=f"{tmp_path}/store/d") as server:
        peer = Peer(server.address)
        peer.open(1)
        peer.add(1, HEAP, pages(1, 600))
        head = peer.head(6 | 4 << 16, 2, STACK, 1 << 8 | 1)
        peer.send({"a header": head[:7], "a page": head + bytes(99), "the last page": b""}[at])
        peer.socket.shutdown(socket.SHUT_WR)
        assert peer.ended()
        again = Peer(server.address)  # and the next one is served
        again.open(1)
        again.add(1, HEAP, pages(9, 1))
        assert not is_there(tmp_path)
        assert again.close() == 0
    objects = open_objects(str(tmp_path / "store"))
    assert [each.key for each in objects.list("snapshots/")] == ["snapshots/d"]
    assert len(list(objects.list("chunks/"))) == 1  # those of the first one have gone


def test_a_second_dump_is_not_stored_under_the_same_name(tmp_path: Path) -> None:
    with page_server(tmp_path, into=f"{tmp_path}/store/d") as server:
        first = Peer(server.address)
        first.open(1)
        first.add(1, HEAP, pages(1, 1))
        assert first.close() == 0
        second = Peer(server.address)
        with pytest.raises(ConnectionError):
            second.open(1)
    assert stored(tmp_path, PageMap(1), HEAP, 1) == pages(1, 1)


def test_dumps_may_be_numbered_and_come_at_the_same_time(tmp_path: Path) -> None:
    def send(number: int) -> None:
        peer = Peer(server.address)
        peer.open(number)
        together.wait()
        peer.add(number, HEAP, pages(number, 80))
        assert peer.close() == 0

    together = threading.Barrier(3)
    with page_server(tmp_path, into=f"{tmp_path}/store/d-{{n}}") as server:
        threads = [threading.Thread(target=send, args=(number,)) for number in (1, 2, 3)]
        for each in threads:
            each.start()
        for each in threads:
            each.join()
    found = set()
    for name in ("d-0", "d-1", "d-2"):
        (region,) = open_image(open_objects(str(tmp_path / "store")), name).regions
        number = int(region.name.removeprefix("pagemap-"))
        assert stored(tmp_path, PageMap(number), HEAP, 80, name) == pages(number, 80)
        found.add(number)
    assert found == {1, 2, 3}


def test_nothing_is_in_a_parent(tmp_path: Path) -> None:
    with page_server(tmp_path, into=f"{tmp_path}/store/d") as server:
        peer = Peer(server.address)
        peer.send(peer.head(PARENT, to=1 << 8 | 1))
        assert peer.exactly(4) == bytes(4)
        peer.open(1)
        peer.send(peer.head(PARENT, to=2 << 8 | 1))
        assert peer.exactly(4) == bytes(4)
        assert peer.close() == 0


def test_compressed_pages_are_taken_where_that_is_configured(tmp_path: Path) -> None:
    zeros, raw, small = bytes(PAGE), pages(1, 1), b"abcd" * (PAGE // 4)
    packed = compress(small, store_size=False)
    sent = b"".join(len(each).to_bytes(4, "little") + each for each in (b"", raw, packed))
    with page_server(tmp_path, into=f"{tmp_path}/store/d", compressed=True) as server:
        peer = Peer(server.address)
        peer.open(1)
        peer.send(peer.head(COMPRESSED | PRESENT << 16, 3, HEAP, 1 << 8 | 1) + sent)
        assert peer.close() == 0
    assert stored(tmp_path, PageMap(1), HEAP, 3) == zeros + raw + small
    with page_server(tmp_path, into=f"{tmp_path}/store/e") as server:
        peer = Peer(server.address)
        peer.open(1)
        peer.send(peer.head(COMPRESSED | PRESENT << 16, 3, HEAP, 1 << 8 | 1) + sent)
        assert peer.ended()
    assert not is_there(tmp_path, "e")
