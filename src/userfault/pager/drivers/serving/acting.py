"""What parts of the loop ask of the one that serves."""

from __future__ import annotations

import contextlib
from typing import Protocol

from userfault.pager.drivers.mappings.served import Context, Served


class Acting(Protocol):
    """Does what cores ask for."""

    def perform(self, context: Context) -> None:
        """Everything that the core of `context` asks for, until it asks for nothing more."""

    def costs(self, served: Served) -> contextlib.AbstractContextManager[None]:
        """An error of ours within it costs this mapping and no other."""

    def lose(self, served: Served, error: Exception) -> None:
        """The same, where `error` was caught."""


class Book(Protocol):
    """Whose mappings are served, and the record of them."""

    def number(self) -> int:
        """A number for a new context, never given before."""

    def commit(self, changed: Served) -> bool:
        """Record what is served, `changed` anew: a successor starts from here.

        False: that failed, and the client has ended for it.  Descriptors that were taken out of the
        record have to be left open.
        """

    def forget(self, served: Served) -> bool:
        """Record what is served without `served`.  False as with `commit`."""
