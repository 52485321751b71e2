"""What the program that receives and its process with the connection say to each other.

One packet each (msgpack, on a socket of type SEQPACKET); the process ends when its end is all that
is left of the socket.
"""

from __future__ import annotations

from typing import TypeAlias

import msgspec

from userfault.migrate.frames import Offer, Refused
from userfault.serve.page_server.tls import Tls

PACKET = 192 << 10  # below the least SO_SNDBUF in use (212,992); the state of a machine is in one


class Start(msgspec.Struct, frozen=True, tag="start"):
    """The first: how to receive.  The socket that listens comes along, and that of the lines.

    `patience_s`: how long a sender may be away before it is given up.
    """

    tls: Tls | None
    patience_s: float


class Accept(msgspec.Struct, frozen=True, tag="accept"):
    """Memory and guest are prepared: the sender may begin."""


class Refuse(msgspec.Struct, frozen=True, tag="refuse"):
    """They are not, or its state is not to be used: why, for the sender."""

    refused: Refused


class Ready(msgspec.Struct, frozen=True, tag="ready"):
    """The state is set: it could run."""


class Complete(msgspec.Struct, frozen=True, tag="complete"):
    """All memories are in."""


class Offered(msgspec.Struct, frozen=True, tag="offered"):
    """A sender has come."""

    offer: Offer
    peer: str


class Switched(msgspec.Struct, frozen=True, tag="switched"):
    """The guest stands still there; its state."""

    state: bytes


class Go(msgspec.Struct, frozen=True, tag="go"):
    """It is ours."""


class Finished(msgspec.Struct, frozen=True, tag="finished"):
    """The sender was told that all is here.  `heard`: it has said so."""

    heard: bool


class Failed(msgspec.Struct, frozen=True, tag="failed"):
    """It comes to nothing."""

    refused: Refused


ToProcess: TypeAlias = Start | Accept | Refuse | Ready | Complete
FromProcess: TypeAlias = Offered | Switched | Go | Finished | Failed
