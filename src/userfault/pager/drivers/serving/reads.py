"""Reads of sources away from the fault path: each gets a place, is started, and is answered.

Who reads (threads for a file, processes for a function) is `readers.py` and `workers.py`; whose
turn it is decides `pager.core.shares`.
"""

from __future__ import annotations

import functools

from userfault.linux.refused import calling
from userfault.pager.core.actions import Abandon, Fetch, Hasten
from userfault.pager.core.shares import Shares
from userfault.pager.drivers.mappings.readers import Readers
from userfault.pager.drivers.mappings.served import Context, Served
from userfault.pager.drivers.mappings.threads import Threads
from userfault.pager.drivers.mappings.workers import Worker, Workers
from userfault.pager.drivers.serving.acting import Acting
from userfault.pager.drivers.serving.calls import Calls
from userfault.pager.drivers.serving.loop import Loop
from userfault.pager.drivers.serving.momentary import Momentary
from userfault.pager.drivers.serving.timed import Timed


class Reads:
    """The reads of all mappings, at most `most` under way at once.

    `threads`: those that read.  `timed`: hears of contexts with deadlines.
    """

    def __init__(self, loop: Loop, acting: Acting, timed: Timed, most: int, calls: Calls) -> None:
        self._loop = loop
        self._calls = calls
        self._acting = acting
        self._timed = timed
        self._shares: Shares[Fetch] = Shares(most)
        self._reading: dict[Readers, None] = {}  # whose threads are not all back
        with calling("eventfd2"):
            bell = calls.bell()
        self.threads = Threads(bell, loop)
        self._momentary = loop.soon = Momentary(loop.polling(), calls.clock)
        loop.watch(bell, self._ring)

    def close(self) -> None:
        """Hear of no more answers."""
        bell = self.threads.bell
        self._loop.forget(bell)
        self.threads.close(functools.partial(self._calls.close, bell))

    @property
    def most(self) -> int:
        """Reads under way at once, at the highest."""
        return self._shares.most

    def ask(self, context: Context, fetch: Fetch) -> None:
        """Read for `context`, as soon as there is a place for it."""
        fetch.owner = context
        if fetch.demand and self._shares.at_once(context.served.key, fetch):
            self._begin(fetch)
        else:
            self._shares.ask(context.served.key, fetch)
            self._start()

    def abandon(self, context: Context, action: Abandon) -> None:
        """Kill the worker that is late.  (A thread reads on, its answer is ignored.)"""
        served = context.served
        fetcher = served.origin.fetcher
        for fetch in self._shares.reads_of(served.key):
            # Each context numbers its own fetches, and those of a fork share their workers.
            if fetch.owner is context and fetch.number == action.number:
                self._shares.forget(served.key, [fetch])
                if isinstance(fetcher, Workers):
                    self._end_worker(fetcher, fetch)
                elif fetcher is not None:
                    fetcher.abandon(fetch)
        self._start()

    def hasten(self, _context: Context, _action: Hasten) -> None:
        """A read that has no place yet may have one now."""
        self._start()

    def forget(self, context: Context) -> None:
        """`context` is served no more."""
        number = context.served.key
        reads = [fetch for fetch in self._shares.reads_of(number) if fetch.owner is context]
        self._shares.forget(number, reads)

    def end_workers(self, served: Served) -> None:
        """The mapping is served no more: nobody listens to its workers."""
        fetcher = served.origin.fetcher
        if isinstance(fetcher, Workers):
            for worker in fetcher.workers:
                self._forget(worker)
        elif fetcher is not None:
            self._reading.pop(fetcher, None)

    def _start(self) -> None:
        """Start the reads that have a place now."""
        while (fetch := self._shares.grant()) is not None:
            self._begin(fetch)

    def _begin(self, fetch: Fetch) -> None:
        """It has a place."""
        context: Context = fetch.owner
        fetcher = context.served.origin.fetcher
        assert fetcher is not None, "a source without a reader is never fetched from"
        context.core.started(fetch, self._calls.clock())
        self._timed.add(context)
        size = context.served.page_size
        if isinstance(fetcher, Workers):
            with self._loop.lifted():
                fetcher.start(fetch, fetch.page * size, fetch.count * size)
            self._watch_workers(fetcher)
        else:
            self._read(fetcher, fetch, fetch.page * size, fetch.count * size)
        if fetcher.answers:  # nobody could be had to read
            self._take_answers(fetcher)

    def _read(self, readers: Readers, fetch: Fetch, offset: int, length: int) -> None:
        """By a thread, unless the disk is about to answer."""
        self._reading[readers] = None
        if fetch.demand and self._momentary.pays:
            read = readers.momentary(fetch, offset, length)
            if read is not None:
                self._momentary.hold(read, functools.partial(self._take_answers, readers))
                return
        readers.start(fetch, offset, length)

    def _end_worker(self, workers: Workers, fetch: Fetch) -> None:
        for worker in list(workers.workers):
            if worker.fetch is fetch:
                self._forget(worker)
                workers.drop(worker)

    def _forget(self, worker: Worker) -> None:
        self._loop.forget(worker.channel.fileno())
        self._loop.forget(worker.said)

    def _ring(self) -> None:
        """Reader threads have answered."""
        self._calls.hear(self.threads.bell)
        for readers in list(self._reading):
            self._take_answers(readers)
            if not readers.under_way:
                self._reading.pop(readers, None)

    def _watch_workers(self, workers: Workers) -> None:
        while workers.fresh:
            worker = workers.fresh.pop()
            handler = functools.partial(self._answered, workers, worker)
            self._loop.watch(worker.channel.fileno(), handler)
            self._loop.watch(worker.said, functools.partial(self._said, worker))

    def _answered(self, workers: Workers, worker: Worker) -> None:
        fds = worker.channel.fileno(), worker.said
        if not workers.readable(worker):
            for fd in fds:
                self._loop.forget(fd)
        self._take_answers(workers)

    def _said(self, worker: Worker) -> None:
        """A function wrote to standard error."""
        if not worker.pass_on():
            self._loop.forget(worker.said)

    def _take_answers(self, fetcher: Readers | Workers) -> None:
        while fetcher.answers:
            answer = fetcher.take()
            fetch = answer.fetch
            self._shares.end(fetch)
            if fetch.demand and isinstance(fetcher, Readers):
                self._momentary.took(fetcher.took_s)
            context = fetch.owner
            if context.closed:
                continue
            try:
                if answer.data is not None:
                    context.core.fetched(fetch, answer.data)
                else:
                    context.core.fetch_failed(fetch, answer.cause, self._calls.clock())
                self._acting.perform(context)
            except Exception as error:
                self._acting.lose(context.served, error)
        self._start()
