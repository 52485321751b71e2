"""A restore elsewhere is given the pages that it asks for, of images or a store, and no others."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from serve.page_server.peer import GET, LAZY, PAGE, PRESENT, Peer, page_server, pages
from snapshot.dumps import PARENT, Dump

HEAP, STACK = 0x5500_0000_0000, 0x7FFF_0000_0000
PIDS = (7, 8)


def source(folder: Path, kind: str) -> str:
    """Two tasks: 300 pages at HEAP and then 5 more, 2 at STACK; as images or in a store."""
    if kind == "images":
        dump = Dump(folder / "images", PIDS)
        for number, pid in enumerate(PIDS, 1):
            dump.pages(
                str(pid),
                number,
                (HEAP, pages(pid, 300), PRESENT | LAZY),
                (HEAP + 300 * PAGE, pages(pid + 50, 5), PRESENT),
                (STACK, pages(pid + 100, 2), PRESENT | LAZY),
            )
        return str(dump.folder)
    with page_server(folder, into=f"{folder}/store/d") as server:
        peer = Peer(server.address)
        for pid in PIDS:
            peer.open(pid)
            peer.add(pid, HEAP, pages(pid, 300), PRESENT | LAZY)
            peer.add(pid, HEAP + 300 * PAGE, pages(pid + 50, 5))
            peer.add(pid, STACK, pages(pid + 100, 2), PRESENT | LAZY)
        assert peer.close() == 0
    return f"{folder}/store/d"


@pytest.mark.parametrize("kind", ["images", "store"])
@pytest.mark.parametrize("short", [False, True])
def test_each_page_is_the_one_that_was_asked_for(tmp_path: Path, kind: str, short: bool) -> None:
    with page_server(tmp_path, give=source(tmp_path, kind)) as server:
        peer = Peer(server.address, short=short)
        for pid in PIDS:
            got = b""
            while len(got) < 300 * PAGE:  # an answer may have fewer pages than were asked for
                got += peer.get(pid, HEAP + len(got), 300 - len(got) // PAGE)
            assert got == pages(pid, 300)
            assert peer.get(pid, STACK + PAGE, 1) == pages(pid + 100, 2)[PAGE:]
            assert peer.get(pid, STACK + PAGE, 64) == pages(pid + 100, 2)[PAGE:]
            assert peer.get(pid, HEAP + 7 * PAGE, 1) == pages(pid, 300)[7 * PAGE : 8 * PAGE]
        assert peer.close() == 0


@pytest.mark.parametrize("kind", ["images", "store"])
def test_many_may_be_asked_for_at_once_and_are_answered_in_order(tmp_path: Path, kind: str) -> None:
    order = [(pid, (at * 37) % 300) for at in range(300) for pid in PIDS]
    with page_server(tmp_path, give=source(tmp_path, kind)) as server:
        peer = Peer(server.address)
        asking = threading.Thread(
            target=peer.send,
            args=(b"".join(peer.head(GET, 1, HEAP + at * PAGE, pid) for pid, at in order),),
        )
        asking.start()
        for pid, at in order:
            assert peer.answer(pid, HEAP + at * PAGE, 1) == pages(pid, at + 1)[at * PAGE :]
        asking.join()
        assert peer.close() == 0


@pytest.mark.parametrize("kind", ["images", "store"])
@pytest.mark.parametrize(
    ("pid", "address"), [(7, HEAP - PAGE), (7, STACK + 2 * PAGE), (9, HEAP), (7, HEAP + 400 * PAGE)]
)
def test_where_there_is_no_page_the_connection_is_closed(
    tmp_path: Path, kind: str, pid: int, address: int
) -> None:
    with page_server(tmp_path, give=source(tmp_path, kind)) as server:
        peer = Peer(server.address)
        peer.get(7, HEAP, 1)
        peer.send(peer.head(GET, 1, address, pid))
        assert peer.ended()
        other = Peer(server.address)
        assert other.get(7, HEAP, 1) == pages(7, 1)
        assert other.close() == 0


def test_pages_of_an_earlier_dump_are_given_too(tmp_path: Path) -> None:
    before, after = Dump(tmp_path / "before", (7,)), Dump(tmp_path / "after", (7,))
    before.pages("7", 1, (HEAP, pages(1, 8), PRESENT | LAZY))
    after.pages("7", 1, (HEAP, 3, PARENT | LAZY), (HEAP + 3 * PAGE, pages(2, 5), PRESENT | LAZY))
    after.parent(before.folder)
    with page_server(tmp_path, give=str(after.folder)) as server:
        peer = Peer(server.address)
        assert peer.get(7, HEAP, 8) == pages(1, 3) + pages(2, 5)
        assert peer.close() == 0


def test_who_gives_no_pages_says_so(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with page_server(tmp_path, into=f"{tmp_path}/store/d") as server:
        peer = Peer(server.address)
        peer.send(peer.head(GET, 1, HEAP, 7))
        assert peer.ended()
    assert "--pages-from" in capfd.readouterr().err
