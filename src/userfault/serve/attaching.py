"""From regions and a userfaultfd of another program to a mapping that is served.

What the program says is looked at in `asked.py`.
"""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Callable

from userfault.kernel.memtypes import round_up, size_name
from userfault.linux.lifeline import LifeLine
from userfault.linux.pidfd import close_all
from userfault.pager.core.policy import Policy
from userfault.pager.drivers.clients.admission import check_descriptors
from userfault.pager.drivers.clients.client import Client
from userfault.pager.drivers.clients.clients import Clients
from userfault.pager.drivers.mappings.served import Served
from userfault.pager.drivers.record.records import Descriptors
from userfault.pager.drivers.wire.messages import Attach
from userfault.serve import joining
from userfault.serve.asked import asked_for, shared
from userfault.serve.peers import RefusedError
from userfault.serve.records import Limits
from userfault.source.spec import Spec
from userfault.wire.regions import Geometry

Home = Callable[[str], int | None]  # by what is behind memory: another worker, which serves it


class ElsewhereError(Exception):
    """The memory is to be served by another worker, at `place`."""

    def __init__(self, place: int) -> None:
        super().__init__(place)
        self.place = place


def fit(geometry: Geometry, spec: Spec, name: str, limits: Limits) -> None:
    """Raise RefusedError for regions that are not those of this source."""
    shown = sum(region.size for region in geometry.regions)
    if shown > limits.memory_bytes:
        raise RefusedError(
            "a client with too much memory",
            cause=f"it has {size_name(shown)}, {size_name(limits.memory_bytes)} are allowed",
            cure="raise the limit on memory of a client",
        )
    if geometry.length != round_up(spec.length, geometry.page_size):
        raise RefusedError(
            f"a client whose memory is not that of {name}",
            cause=f"its regions show {geometry.length} bytes, and {name} has {spec.length}",
            cure="name the image that belongs to the state which is restored",
        )


def take(
    clients: Clients,
    client: Client,
    geometry: Geometry,
    uffd: int,
    source: tuple[Spec, int],
    policy: Policy,
    *,
    has_poison: bool,
    home: Home | None = None,
) -> Served:
    """Serve it: `uffd` and the descriptor of `source` are the mapping's from here on.

    `home`: which other worker serves memory that several processes may map; without, it is served
    here.  Raises RefusedError, OSError, PagerError, and ElsewhereError; then
    both are closed.
    """
    spec, fd = source
    with contextlib.ExitStack() as undo:
        undo.callback(close_all, [uffd, fd])
        pid = client.owner.pid
        request = asked_for(pid, geometry, uffd, spec, policy, has_poison=has_poison)
        if (first := joining.first_of(clients, request)) is not None:
            joining.join(clients, client, first, request, uffd)
            undo.pop_all()
            close_all([fd])
            return first
        if home is not None and (place := home(request.backing)) is not None:
            raise ElsewhereError(place)
        served = made(clients, client, request, uffd, fd)
        undo.pop_all()
    try:
        clients.take(client, served)
    except BaseException:
        served.close()
        raise
    return served


def made(clients: Clients, client: Client, request: Attach, uffd: int, fd: int) -> Served:
    """What is to be served; `uffd` and `fd`, of the source, are its from here on.

    Raises OSError, ValueError; then both are the caller's still.
    """
    with contextlib.ExitStack() as undo:
        line = LifeLine.armed(signal.SIGKILL, whom=client.owner.pid)
        undo.callback(line.close)
        undo.callback(line.disarm)
        states, finished = shared(undo, request)
        held = Descriptors(uffd, states, finished, line.read, line.write, fd)
        check_descriptors(request, held)
        number = clients.service.book.number()
        served = Served.new(request, held, clients.service.reads.threads, client.owner, number)
        undo.pop_all()
    return served
