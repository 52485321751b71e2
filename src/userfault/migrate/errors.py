"""How moving to another host can fail: what matters is on which side the guest is then."""

# ruff: noqa: N818  # the names say what happened; that each is an error, its base class says
from __future__ import annotations

from userfault.kernel.errors import UserfaultError


class NotMoved(UserfaultError):
    """It was not moved: it runs on where it was, as if nothing had been."""


class HalfMoved(UserfaultError):
    """It is the receiver's, and the sender cannot learn that all pages are there.

    It does not run at the sender any more, and must not: it may run at the receiver.
    """


class NotReceived(UserfaultError):
    """Nothing came, or not all of it: the sender has gone for good, or has called it off."""
