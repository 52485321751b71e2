"""What is counted over all clients, those that have gone included: for `userfault top`, Prometheus.

It is a worker's own: what one that was killed had counted is lost, and counters begin at 0 again.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import msgspec

from userfault.pager.drivers.clients.clients import Clients
from userfault.pager.drivers.mappings.served import Served
from userfault.pager.drivers.serving.latency import BOUNDS, Latency
from userfault.serve.commands import is_served


class Metrics:
    """Of `clients`."""

    def __init__(self, clients: Clients) -> None:
        self._clients = clients
        self._gone: Counter[str] = Counter()
        self._latency = Latency()
        service = clients.service
        service.latency = self._latency
        service.dropped = self._dropped

    def values(self, now: float) -> dict[str, Any]:
        """`clients` by protocol, `counters`, `oldest_s` (age of the fault that waits for longest),
        `pages` by what became of them, and `latency`."""
        totals = Counter(self._gone)
        people: Counter[str] = Counter()
        oldest = 0.0
        states: Counter[str] = Counter()
        for client in self._clients.book.clients.values():
            if not is_served(client):
                continue
            people[client.protocol] += 1
            for served in client.mappings.values():
                _add(totals, served)
                for context in served.contexts:
                    oldest = max(oldest, context.core.watch.oldest(now))
                states["all"] += served.attach.pages
                states["unsettled"] += served.main.core.pages.unsettled
        return {
            "clients": people,
            "counters": totals,
            "oldest_s": oldest,
            "pages": states,
            "latency": [
                {
                    "kind": kind,
                    "outcome": outcome,
                    "bounds": BOUNDS,
                    "counts": histogram.counts,
                    "total_s": histogram.total_s,
                }
                for (kind, outcome), histogram in self._latency.histograms.items()
            ],
        }

    def _dropped(self, served: Served) -> None:
        _add(self._gone, served)


def _add(totals: Counter[str], served: Served) -> None:
    """What was counted of it.  (What is counted by name of a cause is none of these.)"""
    for context in served.contexts:
        for name, value in msgspec.structs.asdict(context.core.counters).items():
            if isinstance(value, int):
                totals[name] += value
    totals["failed"] += served.failed
