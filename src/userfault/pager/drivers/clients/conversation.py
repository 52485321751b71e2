"""The conversation with the client: one request, one reply."""

from __future__ import annotations

import contextlib
import functools
import socket
import time
import traceback
from collections.abc import Callable
from typing import Protocol

from userfault.kernel.errors import PagerError, UserfaultError
from userfault.linux import pidfd
from userfault.linux.pidfd import close_all
from userfault.pager.drivers.clients.admission import (
    check,
    check_descriptors,
    check_load,
    entitled,
    in_range,
    refused,
    sorted_out,
)
from userfault.pager.drivers.clients.client import Client
from userfault.pager.drivers.clients.loading import Loading
from userfault.pager.drivers.mappings.served import Served
from userfault.pager.drivers.processes.texts import clipped
from userfault.pager.drivers.record.journal import Word
from userfault.pager.drivers.serving.service import Service
from userfault.pager.drivers.serving.watchdog import still_waiting
from userfault.pager.drivers.wire import messages

Told = Callable[[PagerError | None], None]


class Host(Protocol):
    """Whoever serves what clients ask for."""

    service: Service

    def take(self, client: Client, served: Served) -> None:
        """Serve a new mapping.  Raises PagerError when it cannot be recorded."""

    def replace(self, client: Client, serial: int, told: Told) -> None:
        """Hand over to another family for a client's request; `told` hears how it ended."""

    def hang_up(self, client: Client, *, quit_now: bool) -> None:
        """A client says no more."""


class Conversation:
    """Takes the requests of one client and has `host` carry them out."""

    def __init__(self, client: Client, host: Host) -> None:
        self._client = client
        self._channel = client.channel
        self._peer = pidfd.peer(client.channel)
        self._host = host
        self._service = host.service
        self._words = host.service.journal.words
        self._replacing = 0  # serial of the request whose handover is under way
        self._serial = 0  # of the request being answered
        self._loading = Loading(host.service.loop)

    def close(self) -> None:
        """No mapping will come any more."""
        self._loading.close()

    def request(self) -> None:
        """One request, one reply, whatever becomes of it."""
        self._words[Word.ASKING] = self._client.number  # whose doing it is, should we die of it
        self._answer_next()
        self._words[Word.ASKING] = 0

    def _answer_next(self) -> None:
        try:
            received = messages.receive_request(self._channel)
        except messages.BadRequestError as error:
            self._serial = error.serial
            self._reply(refused(error))
            return
        except OSError:
            received = None
        if received is None or received.request is None:
            self._host.hang_up(self._client, quit_now=False)
            return
        self._serial = received.serial
        with contextlib.ExitStack() as undo:
            undo.callback(close_all, received.fds)
            try:
                entitled(received.request, received.sender, self._peer)
                self._carry_out(received.request, received.fds)
            except Exception as error:  # an error of ours too costs this request and no other
                if not isinstance(error, UserfaultError | OSError | ValueError):
                    self._client.owner.say(f"a request failed: {traceback.format_exc()}")
                self._reply(refused(error))

    def _carry_out(self, request: messages.Request, fds: list[int]) -> None:
        """Do it and reply.  Descriptors that are kept are taken out of `fds`."""
        if isinstance(request, messages.Quit):
            self._host.hang_up(self._client, quit_now=True)
        elif isinstance(request, messages.Attach):
            self._attach(request, fds)
        elif isinstance(request, messages.Load):
            check_load(request, fds)
            self._reply(self._loading.ask(request, fds[0] if fds else -1))
        elif isinstance(request, messages.Replace):
            self._replace(self._serial)
        else:
            if isinstance(request, messages.Detach):
                self._loading.drop(request.number)
            served = self._client.mappings.get(request.number)
            if served is None:
                self._reply(messages.Done())
                return
            reply: messages.Reply = messages.Refused("the pager failed", "an error of its own", "")
            if isinstance(request, messages.Prefetch):
                in_range(request, served.attach.pages)
            with self._service.costs(served):
                reply = _REQUESTS[type(request)](self, served, request)
            self._reply(reply)
            if request.number in self._client.mappings:
                with self._service.costs(served):
                    self._service.perform(served.main)

    def resumed(self) -> None:
        """Another worker took over: a request whose reply is still to come may be lost."""
        with contextlib.suppress(OSError):  # a full socket holds such a message already
            messages.send(self._channel, 0, messages.Resumed(), flags=socket.MSG_DONTWAIT)

    def _reply(self, reply: messages.Reply) -> None:
        """Without waiting: a client makes room before it asks, unless it does not want a reply."""
        with contextlib.suppress(OSError):  # the client has gone: its pidfd will tell
            try:
                messages.send(self._channel, self._serial, reply, flags=socket.MSG_DONTWAIT)
            except PagerError as error:  # no memory for a large one
                small = refused(error)
                messages.send(self._channel, self._serial, small, flags=socket.MSG_DONTWAIT)

    def _attach(self, request: messages.Attach, fds: list[int]) -> None:
        if request.number not in self._client.mappings:  # else asked again after a takeover
            check(request)
            held = sorted_out(request, fds)
            check_descriptors(request, held)
            number = self._service.book.number()
            owner = self._client.owner
            served = Served.new(request, held, self._service.reads.bell, owner, number)
            fds.clear()
            try:
                self._host.take(self._client, served)
            except BaseException:
                served.close()
                raise
            self._loading.hand_over(served)
        self._reply(messages.Done())

    def _replace(self, serial: int) -> None:
        """Hand over, once for each request however often it was sent."""
        if serial == self._client.replaced:
            self._reply(messages.Done())
        elif serial != self._replacing:
            self._replacing = serial
            self._host.replace(self._client, serial, functools.partial(self._replaced, serial))

    def _replaced(self, serial: int, error: PagerError | None) -> None:
        self._serial, self._replacing = serial, 0
        if error is None:
            self._reply(messages.Done())
        else:
            self._reply(refused(error))

    def _detach(self, served: Served, request: messages.Detach) -> messages.Reply:
        del request
        self._service.drop(served)
        return messages.Done()

    def _prefetch(self, served: Served, request: messages.Prefetch) -> messages.Reply:
        served.main.core.want(request.page, request.count)
        return messages.Done()

    def _complete(self, served: Served, request: messages.Complete) -> messages.Reply:
        del request
        served.main.core.complete()
        self._service.commit(served)
        return messages.Done()

    def _give_up(self, served: Served, request: messages.GiveUp) -> messages.Reply:
        served.main.core.give_up(clipped(request.cause), "")
        self._service.commit(served)
        return messages.Done()

    def _tell(self, served: Served, request: messages.Ask) -> messages.Reply:
        del request
        return messages.Answer(
            counters=served.main.core.counters,
            failures=served.failures,
            failed=served.failed,
            finished=served.main.core.finished,
            contexts=len(served.contexts),
            cpu_s=time.process_time(),
            polled_s=self._service.loop.placement.polled_s,
            overdue=served.overdue,
            waiting=still_waiting(served),
            most_in_flight=self._service.reads.most,
            store=served.origin.store.counts if served.origin.store else None,
        )


_REQUESTS: dict[type, Callable[..., messages.Reply]] = {
    messages.Detach: Conversation._detach,
    messages.Prefetch: Conversation._prefetch,
    messages.Complete: Conversation._complete,
    messages.GiveUp: Conversation._give_up,
    messages.Ask: Conversation._tell,
}
