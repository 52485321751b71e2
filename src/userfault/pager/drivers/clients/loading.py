"""Functions are found before there is memory that waits for them.

A client that is about to attach a mapping of a function asks for a process that has loaded it, and
asks again until it is ready: the loop goes on meanwhile.  That process is the first that will call
the function, so that its module runs there once, and the first fault finds it ready.

Nothing of it is recorded: these processes end with the worker that started them, and a client that
asks its successor has another one started.
"""

from __future__ import annotations

import functools

import msgspec

from userfault.pager.drivers.mappings.served import Served
from userfault.pager.drivers.mappings.workers import Worker, Workers
from userfault.pager.drivers.processes.watching import Watching
from userfault.pager.drivers.wire import messages


class _Started(msgspec.Struct):
    """A process, and what became of its loading (None: nothing yet)."""

    worker: Worker
    outcome: messages.Loaded | None = None


class Loading:
    """The processes that load functions, by the number of the mapping that is to come."""

    def __init__(self, loop: Watching) -> None:
        self._loop = loop
        self._started: dict[int, _Started] = {}

    def ask(self, request: messages.Load, arguments: int) -> messages.Loaded:
        """How far it is; the first time it begins.  `arguments`: the descriptor of large ones, or
        -1.  Raises OSError, PagerError where no process can be started."""
        started = self._started.get(request.number)
        if started is None:
            started = self._start(request, arguments)
        outcome = started.outcome
        if outcome is None:
            return messages.Loaded(ready=False)
        if not outcome.ready:
            self.drop(request.number)
        return outcome

    def hand_over(self, served: Served) -> None:
        """The mapping is served: the process that has loaded its function is its first one."""
        started = self._started.pop(served.number, None)
        if started is None:
            return
        self._forget(started.worker)
        fetcher = served.origin.fetcher
        if isinstance(fetcher, Workers) and started.outcome is not None:
            fetcher.adopt(started.worker)
        else:
            started.worker.close()

    def drop(self, number: int) -> None:
        """The mapping will not come."""
        started = self._started.pop(number, None)
        if started is not None:
            self._forget(started.worker)
            started.worker.close()

    def close(self) -> None:
        """End all of them."""
        for number in list(self._started):
            self.drop(number)

    def _start(self, request: messages.Load, arguments: int) -> _Started:
        with self._loop.lifted():
            spec = msgspec.msgpack.encode(request.source)
            options = request.source.options
            worker = Worker(spec, options, request.slot_bytes, arguments)
        started = self._started[request.number] = _Started(worker)
        self._loop.watch(worker.channel.fileno(), functools.partial(self._answered, started))
        self._loop.watch(worker.said, functools.partial(self._said, worker))
        worker.load()
        return started

    def _answered(self, started: _Started) -> None:
        failure = started.worker.loaded()
        started.outcome = messages.Loaded(ready=not failure, failure=failure)
        self._loop.forget(started.worker.channel.fileno())

    def _said(self, worker: Worker) -> None:
        if not worker.pass_on():
            self._loop.forget(worker.said)

    def _forget(self, worker: Worker) -> None:
        self._loop.forget(worker.channel.fileno())
        self._loop.forget(worker.said)
