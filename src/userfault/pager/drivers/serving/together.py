"""Several fills that nobody waits for, made one after the other by one action.

A fill by itself takes some 8 µs of Python beside its ioctl, which is much where that copies two
pages. Here all arguments are written first, then the ioctls follow upon each other, and what became
of them is recorded at once: 1 µs each (measured on 6.18 with Python 3.11).  After some 64 KiB the
loop is asked whether somebody waits; then what is left is left for later.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from operator import add

import msgspec

from userfault.pager.core.actions import (
    CONTINUE,
    COPY,
    ZERO,
    Together,
    between_looks,
)
from userfault.pager.drivers.mappings.served import Context
from userfault.pager.drivers.record.journal import Journal
from userfault.pager.drivers.record.many import MOST
from userfault.pager.drivers.serving.calls import Calls
from userfault.pager.drivers.serving.fills import Performer
from userfault.pager.drivers.serving.sharing import all_in_copy
from userfault.uapi.userfaultfd import UFFDIO_CONTINUE, UFFDIO_COPY, UFFDIO_ZEROPAGE

# Of a file that is looked at as one, where runs lie close together: at least, and a run.
_HULL_BYTES, _HULL_EACH = 4 << 20, 128 << 10


class Series:
    """Performs `Together`.  `performer`: of fills by themselves.  `pressing`: somebody waits."""

    def __init__(
        self, journal: Journal, calls: Calls, performer: Performer, pressing: Callable[[], bool]
    ) -> None:
        self._many = journal.many
        self._calls = calls
        self._ioctl = calls.ioctl
        self._performer = performer
        self._pressing = pressing

    def perform(self, context: Context, action: Together) -> None:
        """As many as there is time for; the core hears what became of them."""
        runs = action.runs[:MOST]
        pages, counts = zip(*runs, strict=True)
        with contextlib.ExitStack() as pins:
            sources = self._sources(context, action, pages, counts, pins)
            copy = context.served.copy
            if copy is not None and action.kind == COPY:
                sources = all_in_copy(context, runs, copy, sources)
            done = self._make(context, action, pages, counts, sources) if sources else 0
        if 0 <= done == len(sources) < len(runs):
            self._performer.fill(context, context.core.series.stopped(action, done))

    def _make(
        self,
        context: Context,
        action: Together,
        pages: Sequence[int],
        counts: Sequence[int],
        sources: Sequence[int],
    ) -> int:
        """Fill the runs for which there are sources (0 where there is nothing to copy); how many
        were filled, or below zero: one was refused."""
        size, many, core = context.served.page_size, self._many, context.core
        told, base, total = action, action.base, len(sources)
        if action.kind == COPY and not sources[0]:  # all of them are in the shared copy
            told = msgspec.structs.replace(action, kind=CONTINUE)
        if total < len(pages):
            pages, counts = pages[:total], counts[:total]
        starts = [base + page * size for page in pages]
        lengths = [count * size for count in counts]
        if sources[0]:
            request, arguments = UFFDIO_COPY, many.copies
            many.begin(context.number, action.kind, pages, counts, starts, sources, lengths)
        else:
            request = UFFDIO_ZEROPAGE if action.kind == ZERO else UFFDIO_CONTINUE
            arguments = many.others
            many.begin(context.number, action.kind, pages, counts, sources, starts, lengths)
        ioctl, fd = self._ioctl, context.fd
        step = between_looks(action.patience, total, sum(lengths))
        done = 0
        try:
            while done < total:
                if done and self._pressing():
                    break
                for argument in arguments[done : min(done + step, total)]:
                    ioctl(fd, request, argument)
                done = min(done + step, total)
        except OSError as error:
            while many.done_bytes(done) == lengths[done]:
                done += 1
            core.series.done(told, done)
            refused, held = core.series.stopped(action, done), many.done_bytes(done)
            self._performer.refused(context, refused, error.errno or 0, held)
            return -1
        core.series.done(told, done)
        return done

    def _sources(
        self,
        context: Context,
        action: Together,
        pages: Sequence[int],
        counts: Sequence[int],
        pins: contextlib.ExitStack,
    ) -> Sequence[int]:
        """Where the bytes of each run lie, up to the first that is not at hand; 0 where a fill
        needs none."""
        served = context.served
        if action.kind == ZERO and not served.zeropage:
            with contextlib.suppress(OSError):
                zeros = self._calls.zeros(max(counts) * served.page_size)
                return [zeros] * len(pages)
            return []
        if action.kind != COPY:
            return [0] * len(pages)
        if served.origin.store is not None:
            return self._stored(context, pages, counts, pins)
        if self._calls.clock() > served.sound_until:
            return []  # a fill by itself looks whether the source is what it was
        return self._mapped(context, pages, counts)

    def _mapped(
        self, context: Context, pages: Sequence[int], counts: Sequence[int]
    ) -> Sequence[int]:
        """In a file that is mapped."""
        served = context.served
        size, address = served.page_size, served.origin.mapped
        low, high = min(pages) * size, max(map(add, pages, counts)) * size
        whole = high - low <= max(_HULL_BYTES, len(pages) * _HULL_EACH)
        start = address(low, high - low) if whole else 0
        if start:
            base = start - low
            return [base + page * size for page in pages]
        found = []
        for page, count in zip(pages, counts, strict=True):
            source = address(page * size, count * size)
            if not source:
                break
            found.append(source)
        return found

    def _stored(
        self,
        context: Context,
        pages: Sequence[int],
        counts: Sequence[int],
        pins: contextlib.ExitStack,
    ) -> Sequence[int]:
        """In chunks that are unpacked; 0 for what is in the shared copy."""
        served = context.served
        store, size = served.origin.store, served.page_size
        assert store is not None
        found = []
        for page, count in zip(pages, counts, strict=True):
            if served.copy is not None and served.copy.run(page, count) == count:
                found.append(0)
                continue
            data = store.at_hand(page * size, count * size, urgent=False)
            if data is None:
                break
            found.append(pins.enter_context(self._calls.place(data)).address)
        return found
