"""Asking a page server: whatever becomes of the connection, who asks gets the page or an error."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from serve.page_server.authority import Authority
from serve.page_server.peer import LAZY, PAGE, PRESENT, page_server, pages
from snapshot.dumps import Dump
from userfault.kernel.errors import UsageError, UserfaultError
from userfault.serve.page_server.asking import Asking, Peer, peer_of
from userfault.serve.page_server.listening import PageServer
from userfault.serve.page_server.stream import ConnectionLostError
from userfault.serve.page_server.tls import Tls
from userfault.serve.peers import RefusedError
from userfault.wire.errors import BadMessageError

HEAP = 0x5500_0000_0000
GET, CLOSE = 7, 0x1023
Handle = Callable[[socket.socket], None]


def dump(folder: Path) -> str:
    made = Dump(folder / "images", (7,))
    made.pages("7", 1, (HEAP, pages(7, 600), PRESENT | LAZY))
    return str(made.folder)


def peer(server: PageServer, **more: object) -> Peer:
    host, port = server.address.split(":")
    return Peer(host, int(port), **more)  # type: ignore[arg-type]


@contextlib.contextmanager
def scripted(*handles: Handle) -> Iterator[Peer]:
    """A page server whose connections are handled by these functions, one after the other."""
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def run() -> None:
            for handle in handles:
                channel, _ = listening.accept()
                with channel:
                    handle(channel)

        thread = threading.Thread(target=run)
        thread.start()
        try:
            yield Peer("127.0.0.1", listening.getsockname()[1], patience_s=0.5)
        finally:
            thread.join()


def request(channel: socket.socket) -> tuple[int, int, int, int]:
    data = channel.recv(32, socket.MSG_WAITALL)
    return struct.unpack("=I4xQQQ", data) if data else (0, 0, 0, 0)


def answer(channel: socket.socket, count: int, address: int, data: bytes) -> None:
    channel.sendall(struct.pack("=I4xQQQ", 6 | 4 << 16, count, address, 7) + data)


@pytest.mark.parametrize("version", ["4.1", "4.2"])
@pytest.mark.parametrize("with_tls", [False, True])
def test_pages_come_from_a_server_of_each_release(
    tmp_path: Path, version: str, with_tls: bool
) -> None:
    tls = None
    if with_tls:
        tls = Authority(tmp_path / "pki").certificate("both")
    with page_server(tmp_path, address="0", give=dump(tmp_path), tls=tls) as server:
        asking = Asking(peer(server, version=version, tls=tls))
        asked = [asking.ask(7, HEAP + at * PAGE, 1) for at in range(0, 600, 7)]
        for number, each in enumerate(asked):
            assert each.wait() == pages(7, 600)[number * 7 * PAGE :][:PAGE]
        assert asking.pages(7, HEAP, 600) == pages(7, 600)  # in several answers
        asking.close(finished=True)
        server.stop()
        server.wait()


def test_many_ask_at_once_over_tls(tmp_path: Path) -> None:
    """One thread writes what all ask while another reads the answers, of one state of TLS."""

    def ask(which: int) -> None:
        for at in range(which, 600, 3):
            page = asking.pages(7, HEAP + at * PAGE, 1)
            wrong.extend([at] if page != whole[at * PAGE : (at + 1) * PAGE] else [])

    tls = Authority(tmp_path / "pki").certificate("both")
    whole = pages(7, 600)
    wrong: list[int] = []
    with page_server(tmp_path, address="0", give=dump(tmp_path), tls=tls) as server:
        asking = Asking(peer(server, tls=tls))
        threads = [threading.Thread(target=ask, args=(which % 3,)) for which in range(6)]
        for each in threads:
            each.start()
        for each in threads:
            each.join()
        asking.close(finished=True)
    assert wrong == []


def test_a_server_of_another_release_is_an_error_that_says_so() -> None:
    def short(channel: socket.socket) -> None:
        channel.recv(32)
        channel.sendall(struct.pack("=IIQQ", 6 | 4 << 16, 1, HEAP, 7) + pages(7, 1))
        with contextlib.suppress(ConnectionResetError):  # not all of it was read
            channel.recv(1)

    with scripted(short) as one:
        asking = Asking(one)
        with pytest.raises(BadMessageError, match="release"):
            asking.pages(7, HEAP, 1)
        with pytest.raises(BadMessageError):  # and nothing else is asked for
            asking.pages(7, HEAP, 1)
        asking.close(finished=False)


def test_fewer_pages_than_were_asked_for_are_no_end() -> None:
    def sparing(channel: socket.socket) -> None:
        for _ in range(5):
            _, count, address, _ = request(channel)
            assert count == 5 - (address - HEAP) // PAGE
            answer(channel, 1, address, pages(address, 1))
        assert request(channel)[0] == CLOSE
        channel.sendall(bytes(4))

    with scripted(sparing) as one:
        asking = Asking(one)
        expected = b"".join(pages(HEAP + at * PAGE, 1) for at in range(5))
        assert asking.pages(7, HEAP, 5) == expected
        asking.close(finished=True)


def test_what_a_lost_connection_leaves_unanswered_is_asked_again() -> None:
    seen: list[int] = []

    def breaking(channel: socket.socket) -> None:
        first, second = request(channel), request(channel)
        seen.extend((first[2], second[2]))
        answer(channel, 1, first[2], pages(1, 1))
        answer(channel, 1, second[2], pages(2, 1)[:99])  # and it breaks in the middle of a page

    def whole(channel: socket.socket) -> None:
        _, _, address, _ = request(channel)
        seen.append(address)
        answer(channel, 1, address, pages(2, 1))
        channel.recv(1)

    with scripted(breaking, whole) as one:
        asking = Asking(one)
        asked = [asking.ask(7, HEAP + at * PAGE, 1) for at in range(2)]
        assert [each.wait() for each in asked] == [pages(1, 1), pages(2, 1)]
        asking.close(finished=False)
    assert seen == [HEAP, HEAP + PAGE, HEAP + PAGE]


@pytest.mark.parametrize("how", ["closed", "silent"])
def test_a_connection_that_does_not_come_back_is_an_error_in_the_end(how: str) -> None:
    def gone(channel: socket.socket) -> None:
        request(channel)
        if how == "silent":
            channel.recv(1)

    with scripted(gone) as one:
        asking = Asking(one)
        asked = asking.ask(7, HEAP, 1)
        with pytest.raises(ConnectionLostError):
            asked.wait()
        with pytest.raises(ConnectionLostError):
            asking.ask(7, HEAP, 1).wait()
        with pytest.raises(ConnectionLostError):  # there is nobody who could be told
            asking.close(finished=True)


def test_without_an_end_that_is_told_the_restore_counts_as_failed() -> None:
    def watching(channel: socket.socket) -> None:
        assert request(channel)[0] == 0  # the end of the connection, and no CLOSE

    with scripted(watching) as one:
        Asking(one).close(finished=False)


def test_nobody_there_is_told_with_what_to_do() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
    with pytest.raises(ConnectionLostError, match="lazy-pages"):
        Asking(Peer("127.0.0.1", port))


def test_a_server_with_another_certificate_is_refused(tmp_path: Path) -> None:
    ours = Authority(tmp_path / "pki").certificate("ours")
    other = Authority(tmp_path / "other").certificate("other")
    with (
        page_server(tmp_path, address="0", give=dump(tmp_path), tls=ours) as server,
        pytest.raises(RefusedError, match="certificate"),
    ):
        Asking(peer(server, tls=other))


def test_a_server_that_does_not_take_our_certificate_is_an_error_at_once(tmp_path: Path) -> None:
    ours = Authority(tmp_path / "pki").certificate("ours")
    other = Authority(tmp_path / "other").certificate("other")
    with (
        page_server(tmp_path, address="0", give=dump(tmp_path), tls=ours) as server,
        pytest.raises(RefusedError, match="does not take our certificate"),
    ):
        Asking(peer(server, tls=Tls(other.cert, other.key, ours.cacert)))


def test_how_a_page_server_is_named() -> None:
    found, images = peer_of("criu://10.0.0.1:27/srv/images", "4.1.1", None)
    assert (found.host, found.port, found.version, images) == (
        "10.0.0.1",
        27,
        "4.1.1",
        "/srv/images",
    )
    assert peer_of("criu://[::1]:27/a", "4.2", None)[0].host == "::1"
    for wrong in ("criu://10.0.0.1/x", "criu://:27/x", "criu://host:99999/x", "criu://host:0/x"):
        with pytest.raises(UsageError):
            peer_of(wrong, "4.2", None)
    with pytest.raises(UserfaultError, match="version"):
        peer_of("criu://host:1/x", "new", None)
