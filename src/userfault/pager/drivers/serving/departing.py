"""Who is served no more: clients and children that ended, mappings that are left, what remains."""

from __future__ import annotations

from typing import TYPE_CHECKING

from userfault.pager.core.turns import Turns
from userfault.pager.drivers.mappings.served import Context, Served
from userfault.pager.drivers.serving.deferring import Deferring
from userfault.pager.drivers.serving.reads import Reads

if TYPE_CHECKING:
    from userfault.pager.drivers.mappings.unpackers import Unpackers

CHILD_CHECK_S = 1.0


class Departing:
    """The part of the driver that lets go; the attributes are the driver's."""

    served: dict[int, Served]
    _client: int
    _client_alive: bool
    _open: bool
    _busy: Turns[Context]
    _deferring: Deferring
    _timed: dict[Context, None]
    _children: dict[Context, None]
    _children_checked: float
    _reads: Reads
    _unpackers: Unpackers | None

    def forget(self, fd: int) -> None:
        """Watch `fd` no more."""
        raise NotImplementedError

    def commit(self, changed: Served | None = None) -> None:
        """Record what is served, `changed` anew."""
        raise NotImplementedError

    def _client_ended(self) -> None:
        """The client is dead: only children that it forked may still need us."""
        self.forget(self._client)
        self._client_alive = False
        self._open = False
        for served in list(self.served.values()):
            self._drop_context(served.main)
            self._drop_if_deserted(served)

    def _check_children(self, now: float) -> None:
        """Children of forks have no pidfd here: ask whether their memory still exists."""
        if now - self._children_checked < CHILD_CHECK_S:
            return
        self._children_checked = now
        for context in list(self._children):
            if context.uffd.owner_gone():
                self._drop_context(context)
                self._drop_if_deserted(context.served)

    def _drop_if_deserted(self, served: Served) -> None:
        if not self._client_alive and all(context.closed for context in served.contexts):
            self.drop(served)

    def _drop_context(self, context: Context) -> None:
        """Serve a context no more.  Descriptors are closed when no record names them any more."""
        if context.closed:
            return
        self._let_go(context)
        served = context.served
        if context is not served.main:
            served.contexts.remove(context)
        self.commit(served)
        context.close()

    def _let_go(self, context: Context) -> None:
        if not context.closed:
            self.forget(context.fd)
            context.core.leave()
        context.closed = True
        self._children.pop(context, None)
        self._busy.discard(context)
        self._deferring.discard(context)
        self._timed.pop(context, None)
        self._reads.forget(context)

    def let_rest(self, served: Served) -> None:
        """Nothing is under way for a mapping any more: no reads, timers, background work."""
        for context in served.contexts:
            self._busy.discard(context)
            self._deferring.discard(context)
            self._timed.pop(context, None)
            self._reads.forget(context)
        self._reads.end_workers(served)
        if self._unpackers is not None:
            self._unpackers.detach(served)

    def drop(self, served: Served) -> None:
        """Forget a mapping altogether."""
        for context in served.contexts:
            self._let_go(context)
        self.let_rest(served)
        self.served.pop(served.number, None)
        self.commit()
        served.close()
