"""What a client says that cannot be served."""

from __future__ import annotations

from userfault.kernel.errors import UserfaultError


class BadMessageError(UserfaultError):
    """A message of a client that makes no sense, or asks for what it cannot have.

    Its text goes to the log of the daemon: the client is told by the end of its connection.
    """
