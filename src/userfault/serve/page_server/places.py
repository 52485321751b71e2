"""How the address of a page server is written."""

from __future__ import annotations

from userfault.kernel.errors import UsageError
from userfault.kernel.names import shown


def host_and_port(address: str) -> tuple[str, int]:
    """Of `[HOST:]PORT`; a host may be in brackets.  Raises UsageError."""
    host, _, port = address.rpartition(":")
    if not (port.isascii() and port.isdecimal() and int(port) < 1 << 16):
        raise UsageError(
            f"{shown(address)} is no address",
            cause="it names no port",
            cure="write [HOST:]PORT, as 10.0.0.1:9999, or the path of a socket",
        )
    return host.removeprefix("[").removesuffix("]"), int(port)
