"""The socket of a page server, and whom it lets in: a thread a peer."""

from __future__ import annotations

import contextlib
import errno
import os
import select
import socket
import threading
import time

import msgspec

from userfault.kernel.errors import UsageError, UserfaultError
from userfault.kernel.names import shown
from userfault.pager.drivers.processes.say import say
from userfault.serve import sockets
from userfault.serve.page_server.giving import Giving, giving
from userfault.serve.page_server.places import host_and_port
from userfault.serve.page_server.stream import Stream
from userfault.serve.page_server.talk import Talk, Target
from userfault.serve.page_server.tls import Tls, secured
from userfault.snapshot.stores.keys import check_name
from userfault.snapshot.stores.opening import open_objects
from userfault.snapshot.stores.urls import last_part

_HOST = "127.0.0.1"
_BACKLOG = 64
_HANDSHAKE_S = 10.0
_PAUSE_S = 0.5  # when nothing is left to accept with
# A peer that has gone without a word is noticed after these (tcp(7)).
_KEEPALIVE = ((socket.TCP_KEEPIDLE, 30), (socket.TCP_KEEPINTVL, 10), (socket.TCP_KEEPCNT, 6))


class Settings(msgspec.Struct, frozen=True):
    """What a page server is to do.

    `address`: `[HOST:]PORT`, a path of a Unix socket (with a slash in it), or `fd:NUMBER`, one that
    is open already, listening or connected.  `into`: STORE/NAME where dumps go.  `give`: a folder
    of images, or STORE/NAME, from which restores are given pages.  `connections`: at once.
    `quiet_s`: how long a peer may say nothing, `patience_s`: how long one message may take.
    """

    address: str
    into: str | None = None
    give: str | None = None
    tls: Tls | None = None
    compressed: bool = False
    connections: int = 16
    quiet_s: float = 3600.0
    patience_s: float = 60.0
    group: int | None = None


class _Peer:
    """One connection."""

    def __init__(self, name: str, channel: socket.socket) -> None:
        self.name = name
        self.channel = channel
        self.talk: Talk | None = None

    @property
    def began(self) -> bool:
        """Whether it has said anything."""
        return self.talk is not None and self.talk.began

    def interrupt(self) -> None:
        """End it."""
        with contextlib.suppress(OSError):
            socket.socket.shutdown(self.channel, socket.SHUT_RDWR)


class PageServer:
    """Serves from now on.  `address`: where, with the port that was chosen.

    Raises UsageError for the address, the files of TLS and names; StoreError and its like for the
    store, FormatError for images.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._tls = settings.tls.context(server=True) if settings.tls is not None else None
        self._into = _target(settings)
        self._lock = threading.Lock()
        self._fewer = threading.Condition(self._lock)
        self._peers: dict[_Peer, None] = {}  # who came first, first
        self._stopped = False
        with contextlib.ExitStack() as undo:
            self._give: Giving | None = None
            if settings.give is not None:
                self._give = giving(settings.give)
                undo.callback(self._give.close)
            self._place = (0, 0)
            self._listener = self._open()
            undo.callback(self._listener.close)
            self.address = _named(settings.address, self._listener)
            self._wake, self._woken = socket.socketpair()
            self._accepting = threading.Thread(target=self._accept, name="userfault-page-server")
            self._accepting.start()
            undo.pop_all()

    def stop(self) -> None:
        """Let nobody in any more, and let go of those who have not said anything."""
        with self._lock:
            if self._stopped:
                return
            self._stopped = True
            silent = [peer for peer in self._peers if not peer.began]
        self._wake.close()
        self._accepting.join()
        self._woken.close()
        self._listener.close()
        if any(self._place):
            sockets.unlink(self._settings.address, self._place)
        for peer in silent:
            peer.interrupt()

    def wait(self) -> None:
        """Until all who were let in have ended."""
        with self._fewer:
            while self._peers:
                self._fewer.wait()

    def close(self, *, now: bool = False) -> None:
        """Stop, and wait; `now`: end whoever is there.  A dump that is cut short is not stored."""
        self.stop()
        if now:
            with self._lock:
                for peer in self._peers:
                    peer.interrupt()
        self.wait()
        if self._give is not None:
            self._give.close()
            self._give = None

    def _open(self) -> socket.socket:
        settings = self._settings
        address = settings.address
        if address.startswith("fd:"):
            return _inherited(address)
        if "/" in address:
            bound = sockets.listening(address, group=settings.group)
            self._place = bound.place
            return socket.socket(fileno=bound.fd)
        host, port = host_and_port(address)
        try:
            (family, kind, protocol, _, place), *_ = socket.getaddrinfo(
                host or _HOST, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
            )
            made = socket.socket(family, kind, protocol)
            with contextlib.ExitStack() as undo:
                undo.callback(made.close)
                made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                made.bind(place)
                made.listen(_BACKLOG)
                undo.pop_all()
        except OSError as error:  # socket.gaierror is one
            raise UsageError(
                f"cannot listen at {shown(address)}",
                cause=error.strerror or str(error),
                cure="name another address",
            ) from None
        return made

    def _accept(self) -> None:
        """The thread's loop.  A socket that is connected already is the one peer."""
        if not self._listener.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
            self._let_in(self._listener.dup(), self.address)
            return
        self._listener.setblocking(False)
        poll = select.poll()
        poll.register(self._listener, select.POLLIN)
        poll.register(self._woken, 0)
        while True:
            poll.poll()
            if self._stopped:
                return
            if not self._room():
                continue
            try:
                channel, address = self._listener.accept()
            except BlockingIOError:
                continue
            except OSError as error:
                if error.errno not in (errno.ECONNABORTED, errno.EINTR):
                    say(f"nobody is let in: {os.strerror(error.errno or 0)}; who comes waits")
                    time.sleep(_PAUSE_S)
                continue
            self._let_in(channel, _told(address))

    def _room(self) -> bool:
        """Whether one more may come: whoever came first and has said nothing yet makes room.

        Where nobody does, it is asked again after a while.
        """
        with self._fewer:
            if len(self._peers) < self._settings.connections:
                return True
            silent = next((peer for peer in self._peers if not peer.began), None)
            if silent is not None:
                silent.interrupt()
            self._fewer.wait(_PAUSE_S)
        return False

    def _let_in(self, channel: socket.socket, name: str) -> None:
        peer = _Peer(f"page server {name}: ", channel)
        with self._lock:
            self._peers[peer] = None
        thread = threading.Thread(target=self._serve, args=(peer,), name="userfault-pages")
        try:
            thread.start()
        except RuntimeError:
            say("refused: no thread can be had for it", peer.name)
            self._gone(peer)

    def _serve(self, peer: _Peer) -> None:
        """A peer's thread.  What goes wrong with one costs that one and no other."""
        try:
            self._talk_with(peer)
        except UserfaultError as error:
            say(f"refused: {error}", peer.name)
        except Exception as error:
            say(f"lost by an error: {type(error).__name__}: {error}", peer.name)
        finally:
            self._gone(peer)

    def _talk_with(self, peer: _Peer) -> None:
        settings = self._settings
        if peer.channel.family != socket.AF_UNIX:
            peer.channel.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            peer.channel.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            for option, value in _KEEPALIVE:
                peer.channel.setsockopt(socket.IPPROTO_TCP, option, value)
        if self._tls is not None:
            peer.channel = secured(self._tls, peer.channel, _HANDSHAKE_S)
        talk = peer.talk = Talk(
            Stream(peer.channel, settings.patience_s),
            give=self._give,
            into=self._into,
            quiet_s=settings.quiet_s,
            tell=lambda text: say(text, peer.name),
        )
        talk.run()
        if talk.given:
            say(f"gave {talk.given} pages", peer.name)

    def _gone(self, peer: _Peer) -> None:
        peer.channel.close()
        with self._fewer:
            self._peers.pop(peer, None)
            self._fewer.notify_all()


def _inherited(address: str) -> socket.socket:
    number = address.removeprefix("fd:")
    try:
        held = socket.socket(fileno=int(number))
        held.getsockopt(socket.SOL_SOCKET, socket.SO_TYPE)
    except (OSError, ValueError) as error:
        raise UsageError(
            f"{shown(address)} is no socket",
            cause=str(error),
            cure="name the number of a descriptor that is passed on, as fd:3",
        ) from None
    os.set_inheritable(held.fileno(), False)
    return held


def _named(address: str, listener: socket.socket) -> str:
    if "/" in address or address.startswith("fd:"):
        return address
    return _told(listener.getsockname())


def _told(address: object) -> str:
    match address:
        case (str(host), int(port), *_):
            return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    return "here"


def _target(settings: Settings) -> Target | None:
    if settings.into is None:
        return None
    store, name = last_part(settings.into)
    if not store:
        raise UsageError(
            f"{shown(settings.into)} names no store",
            cause="dumps are stored in one",
            cure="write STORE/NAME, as /srv/memory/web or /srv/memory/web-{n}",
        )
    check_name(name.replace("{n}", "0"))
    return Target(open_objects(store), name, compressed=settings.compressed)
