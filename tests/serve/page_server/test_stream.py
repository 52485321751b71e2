"""A connection that one thread reads while another writes."""

from __future__ import annotations

import socket
import threading
from typing import Any

import pytest

from helpers.waiting import wait_until
from userfault.serve.page_server.stream import ConnectionLostError, Stream


class Watched(socket.socket):
    """Notes how many calls are inside of it at the most: of TLS's state there may be one."""

    inside = most = calls = 0

    def _within(self, call: Any, *arguments: Any) -> Any:
        self.calls += 1
        self.inside += 1
        self.most = max(self.most, self.inside)
        try:
            return call(*arguments)
        finally:
            self.inside -= 1

    def recv_into(self, *arguments: Any) -> int:
        return int(self._within(super().recv_into, *arguments))

    def send(self, *arguments: Any) -> int:
        return int(self._within(super().send, *arguments))

    def sendall(self, *arguments: Any) -> None:
        self._within(super().sendall, *arguments)


def pair() -> tuple[Watched, socket.socket]:
    ours, theirs = socket.socketpair()
    return Watched(fileno=ours.detach()), theirs


def test_nobody_waits_within_the_connection_while_another_thread_uses_it() -> None:
    ours, theirs = pair()
    stream = Stream(ours, 30)
    came: list[bytes] = []
    reader = threading.Thread(target=lambda: came.append(stream.exactly(5)))
    reader.start()
    wait_until(lambda: ours.calls > 0)  # it waits for what does not come
    stream.send(b"asked")
    assert theirs.recv(5) == b"asked"
    theirs.sendall(b"there")
    reader.join()
    assert came == [b"there"]
    assert ours.most == 1
    stream.close()
    theirs.close()


def test_what_does_not_come_or_go_in_time_is_an_error() -> None:
    ours, theirs = pair()
    stream = Stream(ours, 0.1)
    with pytest.raises(ConnectionLostError, match="too long"):
        stream.exactly(1)
    with pytest.raises(ConnectionLostError, match="too long"):
        stream.send(bytes(64 << 20))
    stream.close()
    theirs.close()


def test_more_than_the_socket_takes_at_once_arrives_as_a_whole() -> None:
    ours, theirs = pair()
    stream, other = Stream(ours, 30), Stream(theirs, 30)
    data = bytes(range(256)) * (1 << 14)
    sender = threading.Thread(target=stream.send, args=(data[:7], data[7:]))
    sender.start()
    assert other.exactly(len(data)) == data
    sender.join()
    stream.close()
    assert other.begun(1) == b""
    other.close()
