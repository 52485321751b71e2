"""A request is answered once, at whatever system call the one who answers is killed."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from userfault.linux import libc
from userfault.serve import exchange
from userfault.serve.exchange import EndedError, Exchange, new_file

SIZE = 32


class Killed(BaseException):
    """Where the process would have ended."""


class Fuse:
    """Burns down by one at each call of what it is wired to, before it and after it."""

    def __init__(self, steps: int) -> None:
        self.left = steps

    def burn(self) -> None:
        self.left -= 1
        if self.left < 0:
            raise Killed

    def through(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def called(*args: Any, **kwargs: Any) -> Any:
            self.burn()
            answer = function(*args, **kwargs)
            self.burn()
            return answer

        return called


class Channel:
    """A socket whose calls burn the fuse."""

    def __init__(self, real: socket.socket, fuse: Fuse) -> None:
        self._real = real
        self.recv = fuse.through(real.recv)
        self.recvmsg = fuse.through(real.recvmsg)
        self.getsockopt = fuse.through(real.getsockopt)
        self.setsockopt = fuse.through(real.setsockopt)
        self.setblocking = real.setblocking
        self.fileno = real.fileno


def answered(request: bytes) -> bytes:
    return request[:8] * 3


def serve(channel: socket.socket, file: int, fuse: Fuse, monkeypatch: Any) -> None:
    """Answer whatever is there, unless killed in the middle."""
    with monkeypatch.context() as patch:
        for name in ("sendfile", "lseek", "pwrite"):
            patch.setattr(os, name, fuse.through(getattr(os, name)))
        patch.setattr(exchange, "fallocate", fuse.through(libc.fallocate))
        one = Exchange(Channel(channel, fuse), file, lambda _: SIZE)  # type: ignore[arg-type]
        one.send()
        while (request := one.next()) is not None:
            one.answer(answered(request))


def steps_of(monkeypatch: Any) -> int:
    """How many steps two requests take."""
    fuse = Fuse(10_000)
    ours, theirs = socket.socketpair()
    file = new_file()
    theirs.send(b"a" * SIZE + b"b" * SIZE)
    serve(ours, file, fuse, monkeypatch)
    for each in (ours, theirs):
        each.close()
    os.close(file)
    return 10_000 - fuse.left


def kills(steps: int) -> Iterator[tuple[int, int]]:
    """Of the first, and then of its successor."""
    for first in range(steps):
        yield first, 10_000
    for first in range(0, steps, 3):
        for second in range(0, steps, 5):
            yield first, second


def test_every_request_is_answered_once_whoever_is_killed_where(monkeypatch: Any) -> None:
    steps = steps_of(monkeypatch)
    assert steps > 20
    for pair in kills(steps):
        ours, theirs = socket.socketpair()
        file = new_file()
        requests = [bytes([number]) * SIZE for number in (1, 2)]
        theirs.send(b"".join(requests))
        for left in (*pair, 10_000):
            try:
                serve(ours, file, Fuse(left), monkeypatch)
            except Killed:
                continue
        theirs.setblocking(False)
        assert theirs.recv(1000) == b"".join(map(answered, requests)), pair
        for each in (ours, theirs):
            each.close()
        os.close(file)


def test_a_long_answer_goes_on_where_it_was_left() -> None:
    """It is sent in pieces, by one after the other, and the pages in the queue stay as they are."""
    ours, theirs = socket.socketpair()
    file = new_file()
    theirs.send(b"a" * SIZE)
    one = Exchange(ours, file, lambda _: SIZE)
    assert one.next() == b"a" * SIZE
    sent = b"".join(number.to_bytes(4, "little") for number in range(1 << 19))
    assert not one.answer(sent)
    came = b""
    while len(came) < len(sent):
        one = Exchange(ours, file, lambda _: SIZE)
        one.send()
        came += theirs.recv(100_000)
    assert came == sent
    theirs.send(b"b" * SIZE)
    one.send()
    assert one.next() == b"b" * SIZE
    ours.close()
    theirs.close()
    os.close(file)


def test_an_answer_that_nobody_has_read_yet_is_not_changed_by_the_next() -> None:
    ours, theirs = socket.socketpair()
    file = new_file()
    theirs.send(b"a" * SIZE + b"b" * SIZE)
    one = Exchange(ours, file, lambda _: SIZE)
    while (request := one.next()) is not None:
        assert one.answer(answered(request))
    assert theirs.recv(1000) == b"a" * 24 + b"b" * 24
    theirs.close()
    with pytest.raises(EndedError):
        one.next()
    ours.close()
    os.close(file)
