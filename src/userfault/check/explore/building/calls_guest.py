"""The calls of a task that runs a virtual machine: its guest's touches, and KVM's own work."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from userfault.check.explore.building.calls import Calls
from userfault.model.faces.guest import Guest, MissingExit

MISSING = "missing"  # the guest stopped at a page that nobody has filled


class GuestCalls(Calls):
    """Guest addresses count from the beginning of the slot."""

    def guest_read(self, guest: Guest, address: int, length: int = 1) -> Any:
        """The guest loads; MISSING if its slot asks to be told of pages that are not there."""
        return self._guest(lambda: guest.read(self.task, address, length))

    def guest_write(self, guest: Guest, address: int, data: bytes) -> Any:
        """The guest stores: 0."""

        def run() -> int:
            guest.write(self.task, address, data)
            return 0

        return self._guest(run)

    def emulate(self, guest: Guest, address: int, length: int = 1) -> Any:
        """KVM itself loads, through the host's mapping."""
        return self._call(lambda: guest.emulate(self.task, address, length))

    def convert(self, guest: Guest, page: int, *, private: bool) -> Any:
        """A page becomes the guest's alone, or is shared with the host again."""
        return self._do(lambda: guest.convert(page, private=private))

    def _guest(self, run: Callable[[], Any]) -> Any:
        def call() -> Any:
            try:
                return run()
            except MissingExit:
                return MISSING

        return self._call(call)
