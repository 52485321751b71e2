"""Our own clients at a daemon's door: what `lazy(..., pager=connect(path))` speaks.

They are strangers to the process that started the daemon, and may have fewer rights.  So the daemon
does nothing in its own name for them: it starts no process, calls no function, and opens no store
but those that it was told to.
"""

from __future__ import annotations

import socket
from typing import Protocol

from userfault.kernel.errors import PagerError
from userfault.pager.drivers.clients.client import Client
from userfault.pager.drivers.clients.clients import Clients
from userfault.pager.drivers.clients.conversation import Conversation
from userfault.pager.drivers.wire import messages
from userfault.source.spec import FunctionSpec, PagesSpec, StoreSpec


class Host(Protocol):
    """The daemon.  `stores`: those that clients may name, by URL."""

    @property
    def stores(self) -> tuple[str, ...]: ...


class NativeTalk(Conversation):
    """What is said with one."""

    def __init__(self, client: Client, clients: Clients, host: Host) -> None:
        client.channel.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        super().__init__(client, clients)
        self._stores = host.stores
        # What a client sent before the kernel was told to say who sends would come from nobody: so
        # it waits for this.
        if not client.mappings:
            self.resumed()

    def _entitled(self, received: messages.Received) -> None:
        """Raise PagerError for what is not done for strangers."""
        request, sender = received.request, received.sender
        if sender is None or sender.pid != self._peer:
            raise PagerError(
                "the daemon serves another process here",
                cause="the request did not come from the process that connected",
                cure="connect in the process that uses it",
            )
        if isinstance(request, messages.Replace | messages.Admit):
            raise PagerError(
                "the daemon does not do that for a client",
                cause="it may be asked by its control socket alone",
                cure="userfault serve --replace",
            )
        if isinstance(request, messages.Attach | messages.Load):
            self._check_source(request)

    def _check_source(self, request: messages.Attach | messages.Load) -> None:
        spec = request.source
        if isinstance(spec, FunctionSpec):
            raise PagerError(
                "the daemon calls no functions",
                cause="it would run code of its clients with its own rights",
                cure="use a Pager() of your own for this memory",
            )
        if isinstance(spec, PagesSpec):
            raise PagerError(
                "the daemon asks no other host for a client",
                cause="pages of other hosts are for restores by CRIU",
                cure="start the daemon with --criu for it",
            )
        if isinstance(spec, StoreSpec):
            named = {spec.url, spec.second or spec.url}
            if not named <= set(self._stores) or spec.cache:
                raise PagerError(
                    "the daemon does not open that store for a client",
                    cause=f"{', '.join(sorted(named))} (cache {spec.cache!r}): not all are listed",
                    cure="start the daemon with --allow-store for it",
                )
