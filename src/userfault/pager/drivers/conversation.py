"""The conversation with the client: one request, one reply."""

from __future__ import annotations

import contextlib
import resource
import socket
from collections.abc import Callable
from typing import Protocol

from userfault.pager.drivers import messages
from userfault.pager.drivers.served import Descriptors, Served
from userfault.pager.drivers.watchdog import still_waiting


class Host(Protocol):
    """Whoever serves the mappings that the client asks for."""

    served: dict[int, Served]
    bell: int

    @property
    def most_in_flight(self) -> int:
        """Reads under way at once, at the highest."""

    def take(self, served: Served) -> None:
        """Serve a new mapping."""

    def drop(self, served: Served) -> None:
        """Forget a mapping."""

    def go_on(self, served: Served) -> None:
        """Perform what a request made the core ask for."""

    def hang_up(self, *, quit_now: bool) -> None:
        """The client says no more."""


class Conversation:
    """Takes requests from `channel` and has `host` carry them out."""

    def __init__(self, channel: socket.socket, host: Host) -> None:
        self._channel = channel
        self._host = host
        self._serial = 0  # of the request being answered

    def request(self) -> None:
        """One request, one reply."""
        try:
            self._serial, request, fds = messages.receive_request(self._channel)
        except messages.BadRequestError as error:
            self._serial = error.serial
            self._reply(messages.Refused(error.what, error.cause, error.cure))
            return
        except OSError:
            request, fds = None, []
        if request is None or isinstance(request, messages.Quit):
            self._host.hang_up(quit_now=request is not None)
            return
        if isinstance(request, messages.Attach):
            self._attach(request, fds)
            return
        served = self._host.served.get(request.number)
        if served is None:
            self._reply(messages.Done())
            return
        self._reply(_REQUESTS[type(request)](self, served, request))
        if request.number in self._host.served:
            self._host.go_on(served)

    def _reply(self, reply: messages.Reply) -> None:
        with contextlib.suppress(OSError):  # the client has gone: its pidfd will tell
            messages.send(self._channel, self._serial, reply)

    def _attach(self, request: messages.Attach, fds: list[int]) -> None:
        try:
            served = Served(request, Descriptors.of(request, fds), self._host.bell)
        except (OSError, ValueError) as error:
            self._reply(messages.Refused("the pager cannot take the mapping", str(error), ""))
            return
        self._host.take(served)
        self._reply(messages.Done())

    def _detach(self, served: Served, request: messages.Detach) -> messages.Reply:
        del request
        self._host.drop(served)
        return messages.Done()

    def _prefetch(self, served: Served, request: messages.Prefetch) -> messages.Reply:
        served.main.core.want(request.page, request.count)
        return messages.Done()

    def _complete(self, served: Served, request: messages.Complete) -> messages.Reply:
        del request
        served.main.core.complete()
        return messages.Done()

    def _give_up(self, served: Served, request: messages.GiveUp) -> messages.Reply:
        served.main.core.give_up(request.cause, "")
        return messages.Done()

    def _answer(self, served: Served, request: messages.Ask) -> messages.Reply:
        del request
        return messages.Answer(
            counters=served.main.core.counters,
            failures=served.failures,
            failed=served.failed,
            finished=served.main.core.finished,
            contexts=len(served.contexts),
            memory_kib=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss,
            overdue=served.overdue,
            waiting=still_waiting(served),
            most_in_flight=self._host.most_in_flight,
        )


_REQUESTS: dict[type, Callable[..., messages.Reply]] = {
    messages.Detach: Conversation._detach,
    messages.Prefetch: Conversation._prefetch,
    messages.Complete: Conversation._complete,
    messages.GiveUp: Conversation._give_up,
    messages.Ask: Conversation._answer,
}
