"""Several processes that map the same shared memory: a VMM, and back ends that do its devices.

Each registers its own mapping with a userfaultfd of its own, and sends that; for a mapping that is
not registered would find zeros where the source's bytes are due.  All are served from one state:
the first to come is a client as any other, and those who come later are further contexts of its
mapping, as the child of a fork with shared memory is.  A page that one has had filled is there for
all of them; who waits for it is woken, in whichever process.
"""

from __future__ import annotations

from userfault.pager.core.segment import Segment
from userfault.pager.core.segments import Segments
from userfault.pager.drivers.clients.client import Client
from userfault.pager.drivers.clients.clients import Clients
from userfault.pager.drivers.mappings.served import Served
from userfault.pager.drivers.wire.messages import Attach


def first_of(clients: Clients, request: Attach) -> Served | None:
    """What is served of the same memory, from the same source, for another process."""
    if not request.backing:
        return None
    for client in clients.book.clients.values():
        for served in client.mappings.values():
            same = served.attach.backing == request.backing
            if same and served.attach.source == request.source and not served.lost:
                return served
    return None


def join(clients: Clients, client: Client, first: Served, request: Attach, uffd: int) -> None:
    """Serve `client`, too, whose userfaultfd is taken over.  Raises PagerError, OSError."""
    shift = request.page_size.bit_length() - 1
    whole = Segment(request.start, request.start + (request.pages << shift), 0)
    shown = Segments.of(request.regions or (whole,), shift)
    clients.join(client, first, uffd, shown)
