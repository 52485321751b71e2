"""How it stands with one client, as values: for the control socket and for metrics."""

from __future__ import annotations

from typing import Any

import msgspec

from userfault.pager.drivers.clients.client import Client
from userfault.pager.drivers.mappings.served import Served
from userfault.pager.drivers.serving.watchdog import still_waiting


def session(client: Client) -> dict[str, Any]:
    """One client."""
    return {
        "number": client.number,
        "pid": client.owner.pid,
        "protocol": client.protocol,
        "door": client.door,
        "alive": client.owner.alive,
        "mappings": [_mapping(served) for served in client.mappings.values()],
    }


def _mapping(served: Served) -> dict[str, Any]:
    core = served.main.core
    return {
        "pages": served.attach.pages,
        "page_size": served.page_size,
        "regions": len(served.attach.regions) or 1,
        "contexts": sum(not each.closed for each in served.contexts),
        "unsettled": core.pages.unsettled,
        "finished": core.finished,
        "failed": served.failed,
        "waiting": still_waiting(served),
        "lost": served.lost,
        "counters": msgspec.structs.asdict(core.counters),
    }
