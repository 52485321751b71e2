"""The conversation with the client: one request, one reply."""

from __future__ import annotations

import contextlib
import functools
import socket
import time
from collections.abc import Callable
from typing import Protocol

from userfault.kernel.errors import PagerError, UserfaultError
from userfault.linux import pidfd
from userfault.linux.pidfd import close_all
from userfault.pager.drivers.clients.admission import (
    check,
    check_admission,
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
from userfault.pager.drivers.processes.texts import clipped, formatted
from userfault.pager.drivers.record.journal import Word
from userfault.pager.drivers.serving.budgets import resident
from userfault.pager.drivers.serving.service import Service
from userfault.pager.drivers.serving.watchdog import still_waiting
from userfault.pager.drivers.wire import messages

Told = Callable[[PagerError | None], None]

_AGAIN_S = 0.01  # between two tries to send into a full socket


class Host(Protocol):
    """Whoever serves what clients ask for."""

    service: Service

    def take(self, client: Client, served: Served) -> None:
        """Serve a new mapping.  Raises PagerError when it cannot be recorded."""

    def admit(self, client: Client, request: messages.Admit, fds: list[int]) -> None:
        """Serve another process for a client; what is kept of `fds` is taken out.

        Raises PagerError when it cannot be recorded.
        """

    def replace(self, client: Client, serial: int, told: Told) -> None:
        """Hand over to another family for a client's request; `told` hears how it ended."""

    def hang_up(self, client: Client, *, quit_now: bool) -> None:
        """A client says no more."""


class Conversation:
    """Takes the requests of one client and has `host` carry them out."""

    edge = foreign = False

    def __init__(self, client: Client, host: Host) -> None:
        self._client = client
        self._channel = client.channel
        self._peer = pidfd.peer(client.channel)
        self._host = host
        self._service = host.service
        self._words = host.service.journal.words
        self._replacing = 0  # serial of the request whose handover is under way
        self._asked = 0  # serial of the last request
        self._serial = 0  # of the request being answered
        self._loading = Loading(host.service.loop)
        self._resumed = False  # the client has yet to be told that another worker took over
        self._unsent: tuple[int, messages.Reply] | None = None
        self._try_at = 0.0

    def close(self) -> None:
        """No mapping will come any more."""
        self._loading.close()
        self._resumed, self._unsent = False, None

    def request(self) -> None:
        """One request, one reply, whatever becomes of it."""
        self._words[Word.ASKING] = self._client.number  # whose doing it is, should we die of it
        self._answer_next()
        self._words[Word.ASKING] = 0

    def _answer_next(self) -> None:
        try:
            received = messages.receive_request(self._channel)
        except messages.BadRequestError as error:
            self._asked = self._serial = error.serial
            self._reply(refused(error))
            return
        except OSError:
            received = None
        if received is None or received.request is None:
            self._host.hang_up(self._client, quit_now=False)
            return
        self._asked = self._serial = received.serial
        with contextlib.ExitStack() as undo:
            undo.callback(close_all, received.fds)
            try:
                self._entitled(received)
                self._carry_out(received.request, received.fds)
            except Exception as error:  # an error of ours too costs this request and no other
                if not isinstance(error, UserfaultError | OSError | ValueError):
                    self._client.owner.say(f"a request failed: {formatted(error)}")
                self._reply(refused(error))

    def _entitled(self, received: messages.Received) -> None:
        """Raise PagerError for what may not be asked for."""
        if received.request is not None:
            entitled(received.request, received.sender, self._peer)

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
        elif isinstance(request, messages.Admit):
            self._admit(request, fds)
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
        self._resumed = True
        self._send()

    def _reply(self, reply: messages.Reply) -> None:
        """Without waiting.  A client waits for the last thing it asked and for nothing else."""
        if self._unsent is None or self._serial == self._asked:
            self._unsent = (self._serial, reply)
            self._send()

    def _send(self) -> None:
        """What is to be told; later where the socket is full of replies that nobody has taken.

        A client throws those away before it asks.  But the answers to what it had asked before,
        and waits for no more, may fill the socket again between that and the reply it waits for.
        """
        try:
            if self._resumed:
                messages.send(self._channel, 0, messages.Resumed(), flags=socket.MSG_DONTWAIT)
                self._resumed = False
            if self._unsent is not None:
                serial, reply = self._unsent
                try:
                    messages.send(self._channel, serial, reply, flags=socket.MSG_DONTWAIT)
                except PagerError as error:  # no memory for a large one
                    small = refused(error)
                    messages.send(self._channel, serial, small, flags=socket.MSG_DONTWAIT)
        except BlockingIOError:
            self._try_at = time.monotonic() + _AGAIN_S
            self._service.loop.timers[self] = None
            return
        except OSError:  # the client has gone: its pidfd will tell
            self._resumed = False
        self._unsent = None

    def next_time(self) -> float | None:
        """When to try again to send; None while everything is told (`loop.Timer`)."""
        return self._try_at if self._resumed or self._unsent is not None else None

    def tick(self, now: float) -> None:
        """Try again, when it is time."""
        if now >= self._try_at and self.next_time() is not None:
            self._send()

    def _attach(self, request: messages.Attach, fds: list[int]) -> None:
        if request.number not in self._client.mappings:  # else asked again after a takeover
            check(request)
            held = sorted_out(request, fds)
            check_descriptors(request, held)
            number = self._service.book.number()
            owner = self._client.owner
            served = Served.new(request, held, self._service.reads.threads, owner, number)
            fds.clear()
            try:
                self._host.take(self._client, served)
            except BaseException:
                served.close()
                raise
            self._loading.hand_over(served)
        self._reply(messages.Done())

    def _admit(self, request: messages.Admit, fds: list[int]) -> None:
        """Another process is served from now on; once, however often it is asked for."""
        check_admission(fds)
        self._host.admit(self._client, request, fds)
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
        self._service.end_recording(served)
        if not served.main.closed:
            served.main.core.complete()
            self._service.commit(served)
        return messages.Done()

    def _give_up(self, served: Served, request: messages.GiveUp) -> messages.Reply:
        self._service.end_recording(served)
        if not served.main.closed:  # its process has ended: there is nothing to be poisoned
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
            residency=resident(served.main.core),
        )


_REQUESTS: dict[type, Callable[..., messages.Reply]] = {
    messages.Detach: Conversation._detach,
    messages.Prefetch: Conversation._prefetch,
    messages.Complete: Conversation._complete,
    messages.GiveUp: Conversation._give_up,
    messages.Ask: Conversation._tell,
}


class ForAnother(Conversation):
    """The same about the memory of another process, which knows nothing of us."""

    foreign = True
