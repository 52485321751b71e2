"""Cloud Hypervisor's connection for page faults: it asks for pages, and is answered in order.

The VM is restored by the process that connected to it (`api/cloud_hypervisor.py`), which hands over
this connection before the VM first touches its memory.  When it ends, every page is in; before
that, a VM that cannot be answered could only wait for ever, and is ended.
"""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable
from typing import Protocol

from userfault.kernel.errors import PagerError, UserfaultError
from userfault.linux.refused import cause_of
from userfault.pager.drivers.clients.client import Client
from userfault.pager.drivers.clients.clients import Clients
from userfault.serve.delivering import Bytes
from userfault.serve.exchange import EndedError, Exchange
from userfault.serve.restores import Restored, Restores
from userfault.wire import cloud_hypervisor as wire

PROTOCOL = "cloud-hypervisor"
_OK = wire.response(wire.Status.OK)
_ERROR = wire.response(wire.Status.ERROR)
_PAUSE_S = 0.002  # until the other side is looked at again that does not read
_AT_ONCE = 64  # requests, before others have their turn


class Host(Protocol):
    """The daemon."""

    restores: Restores

    def refused(self, client: Client, error: UserfaultError) -> None:
        """Tell the log."""


class FaultTalk:
    """What is said with one connection."""

    edge = foreign = True

    def __init__(self, client: Client, clients: Clients, host: Host) -> None:
        self.client = client
        self._clients = clients
        self._host = host
        self._restored: Restored | None = None
        self._exchange: Exchange | None = None
        self._busy = False  # a page is on its way
        self._at_once = False  # it is asked for in this moment
        self._again_at: float | None = None
        try:
            self._restored, file = host.restores.join(client.door)
            self._exchange = Exchange(client.channel, file, wire.size_of)
        except Exception as error:
            self._refuse(error)

    @property
    def needed(self) -> bool:
        """The VM cannot do without it."""
        return self.client.open

    def request(self) -> None:
        """Something came, or its end."""
        if self._exchange is None and self.client.open:
            self._clients.hang_up(self.client, quit_now=True)
        for _ in range(_AT_ONCE):
            if not self._one():
                return
        self._later(0.0)

    def _one(self) -> bool:
        """One request: whether there may be another."""
        if self._exchange is None or self._busy or self._again_at is not None:
            return False
        try:
            data = self._exchange.next()
            if data is not None:
                self._answer(data)
        except EndedError:
            self._end()
            return False
        except Exception as error:  # an error of ours too costs this client and no other
            self._refuse(error)
            return False
        return data is not None

    def resumed(self) -> None:
        """Another worker took over: it knows of the file where they stood."""
        self._sent(self._send)
        self.request()

    def close(self) -> None:
        """No more is heard of it."""
        if self._exchange is not None:
            self._exchange.close()
            self._exchange = None
        if self._restored is not None:
            restored, self._restored = self._restored, None
            self._host.restores.leave(restored)

    # --- answers ---------------------------------------------------------------------------------

    def _answer(self, data: bytes) -> None:
        assert self._exchange is not None
        assert self._restored is not None
        fault = wire.read_fault(data)
        if fault is None:  # ABANDON
            self._exchange.answer(_OK)
            self._end()
            return
        restored = self._restored
        restored.check(fault.gpa, fault.length)
        self._busy = True
        self._at_once = True
        restored.deliver(fault.gpa, fault.length, self._delivered)
        self._at_once = False

    def _delivered(self, data: Bytes | None, cause: str) -> None:
        """The page is where it belongs, or cannot be had."""
        self._busy = False
        exchange, restored = self._exchange, self._restored
        if exchange is None or restored is None:
            return
        if data is None:
            self._refuse(PagerError("a page of a VM cannot be delivered", cause=cause))
        elif restored.shared:
            self._sent(lambda: exchange.answer(_OK))
        else:
            header = wire.response(wire.Status.OK, len(data))
            self._sent(lambda: exchange.answer(header, data))
        if not self._at_once:
            self.request()

    def _send(self) -> bool:
        return self._exchange is None or self._exchange.send()

    def _sent(self, send: Callable[[], bool]) -> None:
        """Whatever is left is sent as soon as the other side reads."""
        self._again_at = None
        try:
            if not send():
                self._later(_PAUSE_S)
        except EndedError:
            self._end()
        except Exception as error:
            self._refuse(error)

    def _later(self, pause_s: float) -> None:
        self._again_at = time.monotonic() + pause_s
        self._clients.service.loop.timers[self] = None

    def next_time(self) -> float | None:
        """When to go on."""
        return self._again_at

    def tick(self, now: float) -> None:
        """Go on, if it is time."""
        if self._again_at is not None and now >= self._again_at:
            self._sent(self._send)
            self.request()

    # --- ends ------------------------------------------------------------------------------------

    def _end(self) -> None:
        """Everything is in, or the VM has gone."""
        self.client.owner.say("asks for no more pages")
        self._clients.hang_up(self.client, quit_now=True)

    def _refuse(self, error: Exception) -> None:
        """It cannot be served: it is told so, and ended, since its guest would wait for ever."""
        if not isinstance(error, UserfaultError):
            cause = cause_of(error) if isinstance(error, OSError) else traceback.format_exc()
            error = PagerError("a VM that cannot be served", cause=cause)
        self._host.refused(self.client, error)
        self.client.owner.end("nobody fills its memory")
        if self.client.number in self._clients.book.clients and self.client.conversation is self:
            self._clients.hang_up(self.client, quit_now=True)
