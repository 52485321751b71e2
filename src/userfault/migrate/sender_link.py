"""The sender's side of the connection: dialled again and again, and what the receiver has said.

What a connection that broke had on its way is lost; `Outgoing` knows what is to be sent again.
"""

from __future__ import annotations

import contextlib
import secrets
import ssl
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any, NoReturn

from pyroaring import BitMap

from userfault.kernel.errors import UserfaultError
from userfault.migrate.errors import HalfMoved, NotMoved
from userfault.migrate.frames import (
    MAGIC,
    TOKEN_BYTES,
    VERSION,
    Hello,
    Kind,
    Offer,
    Phase,
    Refused,
    Welcome,
    pack,
    unexpected,
    unpack,
    unpack_runs,
)
from userfault.migrate.link import LOST, QUIET_S, SAY_S, Link, dial, told
from userfault.migrate.pages import Outgoing, set_of
from userfault.serve.page_server.stream import ConnectionLostError
from userfault.serve.peers import RefusedError
from userfault.wire.errors import BadMessageError

_PREPARE_S = 70.0  # the receiver makes memory and a machine
_AGAIN_S = 0.1


class Connection:
    """One move, over one connection after the other; a thread hears each.

    `stopped`: the guest stands still, since `stopped_at`.  `given`: it was decided that it is the
    receiver's: set before that is said, and from then on it never runs here again.  `asked`: pages
    that somebody waits for, and whether they had come before.
    """

    def __init__(
        self,
        where: tuple[str, int],
        context: ssl.SSLContext | None,
        offer: Offer,
        pages: Outgoing,
        patience_s: float,
        still_s: float,
    ) -> None:
        self.stopped = self.given = False
        self.stopped_at = self.stopped_s = 0.0
        self.breaks = 0
        self.phase = Phase.COPYING
        self.asked: deque[tuple[BitMap, bool]] = deque()
        self._where, self._context, self._offer = where, context, offer
        self._pages = pages
        self._patience_s, self._still_s = patience_s, still_s
        self._token = secrets.token_bytes(TOKEN_BYTES)
        self._changed = threading.Condition()
        self._link: Link | None = None
        self._thread: threading.Thread | None = None
        self._synced = False
        self._lost: Exception | None = None
        self._refused: UserfaultError | None = None

    def begin(self) -> None:
        """The first connection; without one there is nothing to be waited for."""
        try:
            self._connect(first=True)
        except (*LOST, RefusedError, BadMessageError) as error:
            cure = error.cure if isinstance(error, UserfaultError) else ""
            raise self._not_moved(told(error), cure) from None

    def resuming(self, work: Callable[[], None]) -> None:
        """Do it; where the connection breaks, anew on the next one."""
        while True:
            try:
                return work()
            except LOST as error:
                self._again(error)

    def send(self, kind: Kind, *pieces: bytes) -> None:
        """A frame.  Raises ConnectionLostError, or why the receiver wants no more."""
        link = self._link
        if self._lost is not None or self._refused is not None or link is None:
            self._raise()
        link.send(kind, *pieces)

    def wait(self, until: Callable[[], Any], seconds: float | None = None) -> None:
        """For what the receiver says.  Without `seconds` the guest stands still for it: NotMoved
        where it takes too long.  Raises what `send` does."""
        until_s = self.stopped_at + self._still_s
        deadline = until_s if seconds is None else time.monotonic() + seconds
        with self._changed:
            while not until():
                if self._lost is not None or self._refused is not None:
                    self._raise()
                left = deadline - time.monotonic()
                if left <= 0:
                    if seconds is None:
                        cause = f"the receiver was not ready within {self._still_s:g} s"
                        raise self._not_moved(cause)
                    return
                self._changed.wait(min(left, SAY_S))

    def catch_up(self) -> None:
        """Wait until the receiver has taken all that was sent."""
        self._synced = False
        self.send(Kind.SYNC)
        while not self._synced:
            self.wait(lambda: self._synced, SAY_S)

    def bye(self) -> None:
        """It has all pages; whether it learns that we know does not matter any more."""
        with contextlib.suppress(*LOST):
            self.send(Kind.BYE)
            self.wait(lambda: False, QUIET_S)  # it hangs up

    def call_off(self, error: BaseException) -> None:
        """Tell the receiver that no more comes."""
        refused = Refused.of("the sender has called it off", str(error), "send it anew")
        if self._link is not None:
            with contextlib.suppress(*LOST):
                self._link.send(Kind.REFUSED, pack(refused))

    def close(self) -> None:
        """Hang up."""
        with self._changed:
            link, self._link = self._link, None
        if link is not None:
            link.interrupt()
            if self._thread is not None:
                self._thread.join()
            link.close()

    def _raise(self) -> NoReturn:
        if self._refused is not None:
            raise self._refused
        raise ConnectionLostError("the connection is lost", cause=told(self._lost or OSError()))

    def _connect(self, *, first: bool) -> None:
        """A connection on which both know what the receiver has."""
        link = dial(*self._where, self._context)
        try:
            link.greeted()
            hello = Hello(MAGIC, VERSION, self._token, not first, self._offer)
            link.send(Kind.HELLO, pack(hello))
            kind, data = link.receive(_PREPARE_S if first else None)
            if kind is Kind.REFUSED:
                raise self._of(unpack(data, Refused))
            if kind is not Kind.WELCOME:
                raise unexpected(kind)
            phase = self._checked(unpack(data, Welcome))
            have = set_of([])
            while runs := unpack_runs(link.expect(Kind.HAVE), self._offer.pages):
                have |= set_of(runs)
        except BaseException:
            link.close()
            raise
        # Once it is ready it has heard all that was said before, stale pages included.
        self._pages.reconnected(have, newer=phase is Phase.COPYING)
        with self._changed:
            self._link, self.phase, self._lost = link, phase, None
            self.asked.clear()
            self._note_running()
        self._thread = threading.Thread(target=self._hear, args=(link,), daemon=True)
        self._thread.start()

    def _checked(self, welcome: Welcome) -> Phase:
        most = Phase.ALL if self.given else Phase.READY if self.stopped else Phase.COPYING
        least = Phase.READY if self.given else Phase.COPYING
        if not least <= welcome.phase <= most:
            raise unexpected(Kind.WELCOME)
        return Phase(welcome.phase)

    def _note_running(self) -> None:
        if self.phase >= Phase.RUNNING and not self.stopped_s:
            self.stopped_s = time.monotonic() - self.stopped_at

    def _again(self, error: Exception) -> None:
        """The next connection.  Raises NotMoved or HalfMoved when it is too late for one."""
        self.close()
        self.breaks += 1
        if self._refused is not None:
            raise self._refused
        patience, since = self._patience_s, time.monotonic()
        if self.stopped and not self.given:
            patience, since = self._still_s, self.stopped_at
        deadline = since + patience
        while True:
            try:
                return self._connect(first=False)
            except (*LOST, RefusedError) as again:
                error = again
            except BadMessageError as bad:
                raise self._not_moved(bad.cause, bad.cure) from None
            if time.monotonic() >= deadline:
                raise self._not_moved(f"it was away for {patience:g} s: {told(error)}")
            time.sleep(_AGAIN_S)

    def _hear(self, link: Link) -> None:
        """The thread that hears what the receiver says on one connection."""
        try:
            while True:
                kind, data = link.receive()
                with self._changed:
                    if self._link is not link:
                        return
                    self._heard(kind, data)
                    self._changed.notify_all()
        except (UserfaultError, OSError, ValueError) as error:
            with self._changed:
                if self._link is link:
                    if isinstance(error, BadMessageError):
                        self._refused = self._not_moved(error.cause)
                    self._lost = error
                self._changed.notify_all()
            link.interrupt()

    def _heard(self, kind: Kind, data: bytearray) -> None:
        if kind in (Kind.ASK, Kind.AGAIN):
            wanted = set_of(unpack_runs(data, self._offer.pages))
            self.asked.append((wanted, kind is Kind.AGAIN))
        elif kind is Kind.READY and self.stopped:
            self.phase = max(self.phase, Phase.READY)
        elif kind is Kind.RUNNING and self.given:
            self.phase = max(self.phase, Phase.RUNNING)
            self._note_running()
        elif kind is Kind.ALL and self.given:
            self.phase = Phase.ALL
        elif kind is Kind.SYNC:
            self._synced = True
        elif kind is Kind.REFUSED:
            self._refused = self._of(unpack(data, Refused))
        else:
            raise unexpected(kind)

    def _of(self, refused: Refused) -> UserfaultError:
        return self._not_moved(refused.why, refused.cure, happened="failed")

    def _not_moved(self, cause: str, cure: str = "", happened: str = "was lost") -> UserfaultError:
        """What it is that goes wrong now; `happened`: to a receiver to which it was given."""
        host, port = self._where
        if self.given:
            return HalfMoved(
                f"the receiver at {host}:{port} {happened} after the switch",
                cause=cause,
                cure="see whether the guest runs there; it stands still here, and may be let run"
                " only where it certainly does not run there",
            )
        return NotMoved(
            f"not moved to {host}:{port}: it runs on here",
            cause=cause,
            cure=cure or "look at the receiver, and at the network between",
        )
