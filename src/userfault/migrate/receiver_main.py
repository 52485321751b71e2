"""The process that has the connection to a sender: it takes pages, and gives them to the pager.

It is apart from the program that receives: that may wait for a page with the interpreter's lock
held, or be stopped by a debugger; and it outlives every worker of the pager.  Workers reach it by
lines (`source.pages`).  It ends with the program.
"""

from __future__ import annotations

import contextlib
import hmac
import select
import socket
import ssl
import threading
import time

import msgspec

from userfault.kernel.errors import MemoryUnavailable, UserfaultError
from userfault.linux.pidfd import close_all, receive
from userfault.migrate import control
from userfault.migrate.arrivals import Arrivals, Lines
from userfault.migrate.frames import (
    VERSION,
    Hello,
    Kind,
    Phase,
    Refused,
    Welcome,
    pack,
    unexpected,
    unpack,
)
from userfault.migrate.link import LOST, Link, over, told
from userfault.pager.drivers.processes.say import say
from userfault.wire.errors import BadMessageError

_MOST_PEERS = 16  # at once; one of them is the sender
_STEP_S = 0.25
_VERDICT_S = 60.0  # to prepare memory and a machine
_TOLD_S = 5.0  # for a peer to read why it is turned away
_HEARS_S = 15.0  # for the sender to come again, and hear that the program is no more


def main(channel: socket.socket) -> None:
    """Its main program; `channel`: the socket to the program that receives."""
    data, fds, *_ = receive(channel, control.PACKET, 2)
    if not data or len(fds) != 2:
        return
    start = msgspec.msgpack.decode(data, type=control.Start)
    listener, lines = (socket.socket(fileno=fd) for fd in fds)
    context = start.tls.context(server=True) if start.tls is not None else None
    Receiving(channel, listener, lines, context, start.patience_s).run()


class Receiving:
    """One move: its phase, its pages, and whoever waits for them."""

    def __init__(
        self,
        channel: socket.socket,
        listener: socket.socket,
        lines: socket.socket,
        context: ssl.SSLContext | None,
        patience_s: float,
    ) -> None:
        self._channel, self._listener = channel, listener
        self._context = context
        self._patience_s = patience_s
        self._arrivals = arrivals = Arrivals()
        self._lines = Lines(lines, arrivals)
        self._changed = arrivals.changed
        self._token = b""
        self._verdict: Refused | bool | None = None
        self._away_since: float | None = None
        self._ends_at: float | None = None  # the program has ended
        self._ended = False
        self._peers = threading.Semaphore(_MOST_PEERS)

    def run(self) -> None:
        """Hear the program, workers and senders, until it is over.  Where the program has ended
        without a word the sender is told so, now or when it comes again."""
        poll = select.poll()
        for each in (self._channel, self._listener, self._lines):
            poll.register(each, select.POLLIN)
        while not self._ended:
            for fd, _ in poll.poll(_STEP_S * 1000):
                if fd == self._channel.fileno() and not self._hear_program():
                    poll.unregister(self._channel)
                    self._program_ended()
                if fd == self._listener.fileno():
                    self._admit()
                if fd == self._lines.fileno() and not self._lines.new():
                    poll.unregister(self._lines)
            self._look_at_the_clock()

    # --- the program ---

    def _hear_program(self) -> bool:
        try:
            data, fds, *_ = receive(self._channel, control.PACKET, 1)
        except ConnectionResetError:  # it has ended with something unread
            return False
        close_all(fds)
        if not data:
            return False
        message = msgspec.msgpack.decode(data, type=control.ToProcess)
        with self._changed:
            link = self._arrivals.link
            if isinstance(message, control.Accept):
                self._verdict = True
            elif isinstance(message, control.Refuse):
                self._refuse(message.refused)
            elif isinstance(message, control.Ready) and self._arrivals.phase is Phase.COPYING:
                self._arrivals.phase = Phase.READY
            elif isinstance(message, control.Complete) and self._arrivals.phase is Phase.RUNNING:
                self._arrivals.phase = Phase.ALL
            self._changed.notify_all()
        kind = {control.Ready: Kind.READY, control.Complete: Kind.ALL}.get(type(message))
        if kind is not None and link is not None:
            with contextlib.suppress(*LOST):  # the next connection tells the phase
                link.send(kind)
        return True

    def _refuse(self, refused: Refused) -> None:
        """The program does not go on: the sender hears why, on this connection or the next."""
        self._verdict = refused
        if self._arrivals.link is not None and self._token:
            with contextlib.suppress(*LOST):
                self._arrivals.link.send(Kind.REFUSED, pack(refused))

    def _program_ended(self) -> None:
        with self._changed:
            if self._arrivals.phase is Phase.ALL or not self._token:
                self._ended = True
            else:
                self._ends_at = time.monotonic() + _HEARS_S
                self._refuse(Refused("the program that receives has ended", "it was killed"))

    def _tell(self, message: control.FromProcess) -> None:
        with contextlib.suppress(OSError):  # it has ended, and so shall we
            self._channel.send(msgspec.msgpack.encode(message))

    def _look_at_the_clock(self) -> None:
        if self._ends_at is not None:
            self._ended = time.monotonic() > self._ends_at or self._arrivals.failed is not None
            return
        since = self._away_since
        if since is None or time.monotonic() - since < self._patience_s:
            return
        self._away_since = None
        if self._arrivals.phase is Phase.ALL:  # it has no page that we need
            self._finish(heard=False)
        else:
            self._fail(
                Refused(
                    "the sender is lost",
                    f"it was away for {self._patience_s:g} s",
                    "look at the sender, and at the network between; --patience sets how long",
                )
            )

    def _fail(self, refused: Refused) -> None:
        with self._changed:
            if self._arrivals.failed is None and not self._ended:
                self._arrivals.failed = refused
                self._tell(control.Failed(refused))
            self._changed.notify_all()

    def _finish(self, *, heard: bool) -> None:
        with self._changed:
            if not self._ended:
                self._ended = True
                self._tell(control.Finished(heard))

    # --- senders ---

    def _admit(self) -> None:
        try:
            channel, address = self._listener.accept()
        except OSError as error:
            say(f"nobody could be let in: {error}")
            time.sleep(_STEP_S)
            return
        peer = f"{address[0]}:{address[1]}"
        if not self._peers.acquire(blocking=False):
            channel.close()
            return
        threading.Thread(target=self._talk, args=(channel, peer), daemon=True).start()

    def _talk(self, channel: socket.socket, peer: str) -> None:
        """One connection, from its beginning to its end."""
        try:
            link = over(channel, self._context)
        except (UserfaultError, *LOST) as error:
            say(f"{peer} was turned away: {told(error)}")
            self._peers.release()
            return
        mine = False
        try:
            link.greet()
            hello = unpack(link.expect(Kind.HELLO), Hello)
            mine = self._take_on(link, hello, peer)
            while mine:
                kind, data = link.receive()
                with self._changed:
                    if self._arrivals.link is not link:  # the sender has come by another one
                        return
                    self._hear(link, kind, data)
        except (BadMessageError, MemoryUnavailable) as error:
            say(f"{peer}: {error}")
            refused = Refused.of(error.what, error.cause, error.cure)
            _tell_off(link, refused)
            if mine or isinstance(error, MemoryUnavailable):
                self._fail(refused)
        except LOST as error:
            if not self._ended:
                say(f"the connection to {peer} is lost: {told(error)}")
        finally:
            with self._changed:
                if self._arrivals.link is link:
                    self._arrivals.link, self._away_since = None, time.monotonic()
                elif self._token and self._arrivals.link is None and self._away_since is None:
                    self._away_since = time.monotonic()  # it has gone before it was welcome
            if isinstance(self._verdict, Refused) and not mine:  # it was told why it is not welcome
                self._fail(self._verdict)
            link.close()
            self._peers.release()

    def _take_on(self, link: Link, hello: Hello, peer: str) -> bool:
        """Whether this sender is the one, and is welcome."""
        with self._changed:
            first = not self._token and not hello.resumes
            known = bool(self._token) and hmac.compare_digest(self._token, hello.token)
            if first:
                self._token = hello.token
        if not first and not (known and hello.resumes):
            cause = "another sender has come before" if self._token else "it knows of no such move"
            refused = Refused("this receiver takes no such move", cause, "start another receiver")
            link.send(Kind.REFUSED, pack(refused))
            return False
        if first:
            self._tell(control.Offered(hello.offer, peer))
        with self._changed:
            deadline = time.monotonic() + _VERDICT_S
            while self._verdict is None and time.monotonic() < deadline:
                self._changed.wait(_STEP_S)
                link.say_alive()
            why = self._arrivals.failed
            if not isinstance(self._verdict, bool):
                why = self._verdict or Refused("the receiver does not get ready")
            if why is None:
                self._arrivals.begin(hello.offer.pages)
                self._replace(link)
                return True
        link.send(Kind.REFUSED, pack(why))
        while True:  # until it has read that, and hangs up
            link.receive()

    def _replace(self, link: Link) -> None:
        """This is the connection from now on."""
        arrivals = self._arrivals
        if arrivals.link is not None:
            arrivals.link.interrupt()
        self._away_since = None
        link.send(Kind.WELCOME, pack(Welcome(VERSION, arrivals.phase)))
        arrivals.connected(link)

    def _hear(self, link: Link, kind: Kind, data: bytearray) -> None:
        arrivals = self._arrivals
        if kind is Kind.PAGES:
            arrivals.pages(data)
        elif kind is Kind.ZEROS:
            arrivals.zeros(data)
        elif kind is Kind.STALE and arrivals.phase is Phase.COPYING:
            arrivals.stale(data)
        elif kind is Kind.SYNC:
            link.send(Kind.SYNC)
        else:
            self._hear_turn(link, kind, data)

    def _hear_turn(self, link: Link, kind: Kind, data: bytearray) -> None:
        """What takes the move a step on, or ends it."""
        arrivals = self._arrivals
        if kind is Kind.SWITCH and arrivals.phase is Phase.COPYING:
            self._tell(control.Switched(bytes(data)))
        elif kind is Kind.GO and arrivals.phase is not Phase.COPYING:
            if arrivals.phase is Phase.READY:
                arrivals.phase = Phase.RUNNING
                self._tell(control.Go())
                self._changed.notify_all()
            link.send(Kind.RUNNING)
        elif kind is Kind.BYE and arrivals.phase is Phase.ALL:
            self._finish(heard=True)
        elif kind is Kind.REFUSED:
            self._fail(unpack(data, Refused))
        else:
            raise unexpected(kind)


def _tell_off(link: Link, refused: Refused) -> None:
    """Say so, and wait until the other side has read it, and hangs up: of a socket that is closed
    with something unread the kernel drops what has not left yet."""
    deadline = time.monotonic() + _TOLD_S
    with contextlib.suppress(BadMessageError, *LOST):
        link.send(Kind.REFUSED, pack(refused))
        while time.monotonic() < deadline:
            link.receive()
