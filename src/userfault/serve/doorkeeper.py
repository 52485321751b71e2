"""What a conversation with somebody who hands over memory needs of the daemon."""

from __future__ import annotations

from typing import Protocol

from userfault.kernel.errors import UserfaultError
from userfault.pager.drivers.clients.client import Client
from userfault.serve.images import Images
from userfault.serve.records import Door, Limits
from userfault.serve.waiting import Waiting


class Doorkeeper(Protocol):
    """The daemon, as each door sees it; some need more."""

    images: Images
    limits: Limits
    waiting: Waiting

    def door(self, client: Client) -> Door:
        """By which it came."""

    def image_for(self, client: Client) -> str:
        """The name of the image that it is shown."""

    def turn_away(self, client: Client, error: UserfaultError, *, handed_over: bool) -> None:
        """Tell the log, and end one that has handed over its memory; the caller hangs up."""

    def admitted(self, client: Client) -> None:
        """It is served."""
