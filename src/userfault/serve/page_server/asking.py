"""Asking a page server for pages: `criu dump --lazy-pages`, `criu page-server --lazy-pages`.

Many requests are under way at once, and answered in their order.  What a connection that is lost
leaves unanswered is asked again on the next one, since a page may be asked for until CLOSE; for how
long one is tried for is bounded, and then each request gets the error.
"""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections import deque

import msgspec

from userfault.kernel.errors import UsageError, UserfaultError
from userfault.kernel.names import shown
from userfault.linux.refused import cause_of
from userfault.pager.drivers.processes.say import say
from userfault.serve.page_server.places import host_and_port
from userfault.serve.page_server.stream import ConnectionLostError, Stream
from userfault.serve.page_server.tls import Tls, secured
from userfault.serve.peers import RefusedError
from userfault.wire.criu.page_server import (
    PAGE,
    STATUS,
    Command,
    Form,
    PageMap,
    Request,
    decode_answer,
    encode,
)
from userfault.wire.errors import BadMessageError

SCHEME = "criu://"
MOST_PATIENCE_S = 20.0  # a pager gives a read up after 30 s
_CONNECT_S = 10.0
# TLS 1.3: a client's certificate is looked at when for the client everything is settled.
_VERDICT_S = 0.5
_PAUSES_S = (0.05, 1.0)  # between two tries, doubling from the first
_KEEPALIVE = ((socket.TCP_KEEPIDLE, 5), (socket.TCP_KEEPINTVL, 2), (socket.TCP_KEEPCNT, 5))


class Peer(msgspec.Struct, frozen=True):
    """Whom to ask: the page server at `host` and `port`, of CRIU `version`.

    `patience_s`: how long an answer may take; twice that long a lost connection is tried anew.
    """

    host: str
    port: int
    version: str = "4.2"
    tls: Tls | None = None
    patience_s: float = MOST_PATIENCE_S

    def __str__(self) -> str:
        return f"the page server at {self.host}:{self.port}"


def peer_of(
    url: str, version: str, tls: Tls | None = None, patience_s: float = MOST_PATIENCE_S
) -> tuple[Peer, str]:
    """From `criu://HOST:PORT/IMAGES`: the peer, and the folder of images.  Raises UsageError."""
    place, slash, images = url.removeprefix(SCHEME).partition("/")
    host, port = host_and_port(place)
    if not host or not port:
        raise UsageError(
            f"{shown(url)} names no page server",
            cause="it lacks a host or a port",
            cure="write criu://HOST:PORT, or criu://HOST:PORT/IMAGES",
        )
    try:
        Form.of(version)
    except ValueError:
        raise UsageError(
            f"{shown(version)} is no version of CRIU",
            cause="it is not of the form 4.2",
            cure="write what `criu --version` says on the other host",
        ) from None
    return Peer(host, port, version, tls, min(patience_s, MOST_PATIENCE_S)), slash + images


class Asked:
    """One request that is under way.  `data`: the pages that came, of `most` at the most."""

    def __init__(self, task: int, address: int, most: int) -> None:
        self.request = Request(Command.GET, 0, most, address, PageMap(task))
        self.data = b""
        self.error: UserfaultError | None = None
        self._there = threading.Event()

    def answered(self, data: bytes) -> None:
        """The pages are there."""
        self.data = data
        self._there.set()

    def failed(self, error: UserfaultError) -> None:
        """They will not be."""
        self.error = error
        self._there.set()

    def wait(self) -> bytes:
        """The pages, at least one.  Raises UserfaultError."""
        self._there.wait()
        if self.error is not None:
            raise self.error
        return self.data


class Asking:
    """The connection to `peer`.  Raises ConnectionLostError, RefusedError where there is none.

    Thread-safe.
    """

    def __init__(self, peer: Peer) -> None:
        self._peer = peer
        self._form = Form.of(peer.version)
        self._tls = peer.tls.context(server=False) if peer.tls is not None else None
        self._lock = threading.Lock()
        self._some = threading.Condition(self._lock)
        self._asked: deque[Asked] = deque()
        self._sent = 0  # of these, from the left, have been sent on this connection
        self._lost: UserfaultError | None = None  # for good
        self._failing_since: float | None = None
        self._closing = False
        self._stream = self._connected()
        if peer.tls is not None and (why := self._stream.refused(_VERDICT_S)):
            self._stream.close()
            raise RefusedError(
                f"{peer} does not take our certificate",
                cause=why,
                cure="CRIU's server wants it signed by its --tls-cacert, and its own --address in"
                " it, unless it was started with --tls-no-cn-verify",
            )
        self._thread = threading.Thread(target=self._read, name="userfault-answers", daemon=True)
        self._thread.start()

    def ask(self, task: int, address: int, most: int) -> Asked:
        """Ask for up to `most` pages; whoever waits for them gets at least one, or an error."""
        asked = Asked(task, address, most)
        with self._some:
            if self._lost is not None:
                asked.failed(self._lost)
                return asked
            self._asked.append(asked)
            self._send()
            self._some.notify()
        return asked

    def pages(self, task: int, address: int, count: int) -> bytes:
        """All of them.  Raises UserfaultError."""
        found = [self.ask(task, address, count).wait()]
        done = len(found[0]) // PAGE
        while done < count:
            found.append(self.ask(task, address + done * PAGE, count - done).wait())
            done += len(found[-1]) // PAGE
        return found[0] if len(found) == 1 else b"".join(found)

    def close(self, *, finished: bool) -> None:
        """Let go of the connection.  `finished`: tell the peer that no page is needed any more;
        without that it takes the restore for failed.

        Raises ConnectionLostError where it cannot be told.
        """
        with self._some:
            self._closing = True
            if finished and self._lost is None:
                with contextlib.suppress(ConnectionLostError):  # whoever reads says so, too
                    self._stream.send(encode(Request(Command.CLOSE), self._form))
            else:
                self._stream.interrupt()
            self._some.notify()
        self._thread.join()
        try:
            if finished:
                self._hear_status()
        finally:
            self._stream.close()

    def _hear_status(self) -> None:
        if self._lost is not None:
            raise ConnectionLostError(str(self._lost))
        (status,) = STATUS.unpack(self._stream.exactly(STATUS.size))
        if status:
            say(f"{self._peer} says {status} to the end of the restore")
        self._stream.finish()

    def _send(self) -> None:
        """What has not been sent on this connection; its reader notices when that does not work."""
        while self._sent < len(self._asked):
            request = self._asked[self._sent].request
            self._sent += 1
            try:
                self._stream.send(encode(request, self._form))
            except ConnectionLostError:
                self._stream.interrupt()
                return

    def _read(self) -> None:
        """The thread that hears the answers."""
        while True:
            with self._some:
                while not self._asked and not self._closing:
                    self._some.wait()
                if not self._asked or (self._closing and self._lost is not None):
                    return
                first = self._asked[0]
            try:
                data = self._answer(first.request)
            except (ConnectionLostError, BadMessageError) as error:
                if not self._again(error):
                    return
                continue
            self._failing_since = None
            with self._lock:
                self._asked.popleft()
                self._sent -= 1
            first.answered(data)

    def _answer(self, request: Request) -> bytes:
        head = self._stream.exactly(self._form.size)
        return self._stream.exactly(decode_answer(head, request, self._form) * PAGE)

    def _again(self, error: UserfaultError) -> bool:
        """A new connection in place of a lost one; False where there is none."""
        self._stream.close()
        if not self._closing and not isinstance(error, BadMessageError):
            say(f"{self._peer} is tried again: {error.cause}")
        if self._failing_since is None:
            self._failing_since = time.monotonic()
        deadline = self._failing_since + 2 * self._peer.patience_s
        pause, most = _PAUSES_S
        while not self._closing and not isinstance(error, BadMessageError):
            if time.monotonic() > deadline:
                break
            try:
                stream = self._connected()
            except UserfaultError as again:
                error = again
            else:
                with self._lock:
                    self._stream, self._sent = stream, 0
                    self._send()
                return True
            time.sleep(pause)
            pause = min(pause * 2, most)
        self._give_up(error)
        return False

    def _give_up(self, error: UserfaultError) -> None:
        if not self._closing:
            say(f"{self._peer} is lost: {error}")
        with self._lock:
            self._lost = error
            while self._asked:
                self._asked.popleft().failed(error)

    def _connected(self) -> Stream:
        peer = self._peer
        try:
            channel = socket.create_connection((peer.host, peer.port), _CONNECT_S)
        except OSError as error:
            raise ConnectionLostError(
                f"cannot connect to {peer}",
                cause=error.strerror or str(error) or cause_of(error),
                cure="start `criu dump --lazy-pages` or `criu page-server --lazy-pages` first",
            ) from None
        try:
            channel.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            channel.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            for option, value in _KEEPALIVE:
                channel.setsockopt(socket.IPPROTO_TCP, option, value)
            if self._tls is not None:
                channel = secured(self._tls, channel, _CONNECT_S, peer.host)
        except BaseException:
            channel.close()
            raise
        return Stream(channel, peer.patience_s)
