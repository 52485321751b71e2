"""Metrics over HTTP, by prometheus-client (the extra `metrics`): in a process that serves no fault.

Each scrape asks the daemon by its control socket.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from userfault.kernel.errors import PagerError, Unavailable, UsageError

Ask = Callable[[str], dict[str, Any]]


def expose(address: str, ask: Ask) -> Callable[[], None]:
    """Serve metrics at `address`, `[HOST:]PORT`, in threads of this process; how to stop it.

    Raises UsageError for the address, Unavailable without the library.
    """
    host, _, port = address.rpartition(":")
    if not port.isdecimal() or not int(port) < 1 << 16:
        raise UsageError(
            f"--metrics {address}", cause="it names no port", cure="write [HOST:]PORT, as :9100"
        )
    try:
        from prometheus_client import start_http_server  # noqa: PLC0415
        from prometheus_client.registry import CollectorRegistry  # noqa: PLC0415
    except ImportError as error:
        raise Unavailable(
            "metrics cannot be shown",
            cause=str(error),
            cure="pip install 'userfault[metrics]'",
        ) from None
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Collector(ask))
    try:
        server, thread = start_http_server(int(port), host or "127.0.0.1", registry)
    except OSError as error:
        raise UsageError(
            f"--metrics {address}", cause=error.strerror or str(error), cure="name another address"
        ) from None

    def stop() -> None:
        server.shutdown()
        server.server_close()
        thread.join()

    return stop


class _Collector:
    """What the daemon counts, as the library has it."""

    def __init__(self, ask: Ask) -> None:
        self._ask = ask

    def describe(self) -> Iterator[Any]:
        """Nothing in advance: the daemon may be busy when this is registered."""
        return iter(())

    def collect(self) -> Iterator[Any]:
        """One scrape."""
        from prometheus_client.core import (  # noqa: PLC0415
            CounterMetricFamily,
            GaugeMetricFamily,
            HistogramMetricFamily,
        )

        try:
            found = self._ask("metrics")
        except PagerError:
            yield GaugeMetricFamily("userfault_up", "Whether the daemon answers.", value=0)
            return
        yield GaugeMetricFamily("userfault_up", "Whether the daemon answers.", value=1)
        clients = GaugeMetricFamily("userfault_clients", "Who is served.", labels=["protocol"])
        for protocol, count in found["clients"].items():
            clients.add_metric([protocol], count)
        yield clients
        for name, text in _GAUGES.items():
            yield GaugeMetricFamily(f"userfault_{name}", text, value=found[name])
        pages = GaugeMetricFamily("userfault_pages", "Pages of all clients.", labels=["state"])
        for state, count in found["pages"].items():
            pages.add_metric([state], count)
        yield pages
        for name in ("refused", "accepted", "takeovers"):
            text = f"Clients that were {name}." if name != "takeovers" else "Workers replaced."
            yield CounterMetricFamily(f"userfault_{name}", text, value=found[name])
        for name, value in found["counters"].items():
            yield CounterMetricFamily(f"userfault_{name}", _ABOUT.get(name, name), value=value)
        waits = HistogramMetricFamily(
            "userfault_fault_seconds",
            "From when a fault is read, or put off, to when its page is filled.",
            labels=["kind", "outcome"],
        )
        for each in found["latency"]:
            waits.add_metric(
                [each["kind"], each["outcome"]], _buckets(each), sum_value=each["total_s"]
            )
        yield waits


_GAUGES = {
    "waiting": "Clients that have not said yet what they want.",
    "workers": "Workers that answer.",
    "oldest_s": "Age of the fault that waits for longest, in seconds.",
}
_ABOUT = {
    "faults": "Messages of faults.",
    "copied": "Pages filled from the source.",
    "zeroed": "Pages filled with zeros.",
    "around": "Pages filled around a fault, in hope.",
    "background": "Pages filled while nothing waited.",
    "failed": "Pages given up.",
    "overdue": "Faults that waited for longer than the policy allows.",
    "source_failures": "Reads of a source that failed.",
}


def _buckets(each: dict[str, Any]) -> list[tuple[str, float]]:
    """Cumulative, as the format wants them."""
    found, so_far = [], 0
    for bound, count in zip([*each["bounds"], "+Inf"], each["counts"], strict=True):
        so_far += count
        found.append((str(bound), float(so_far)))
    return found
