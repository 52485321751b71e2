"""One client: its process, its socket, what it has mapped, and when it is no more."""

from __future__ import annotations

import os
import socket
from typing import Protocol

import msgspec

from userfault.linux.lifeline import LifeLine
from userfault.pager.drivers.mappings.owner import Owner
from userfault.pager.drivers.mappings.served import Served
from userfault.pager.drivers.record.records import ClientRecord, encode


class Conversation(Protocol):
    """What is said with a client.  `edge`: it hears once of what comes, not as long as it is there.

    `foreign`: its program does not know us, so that no signal but SIGKILL means anything to it.
    """

    edge: bool
    foreign: bool

    def request(self) -> None:
        """Something came on its channel."""

    def resumed(self) -> None:
        """Another worker took over."""

    def close(self) -> None:
        """Hear no more of it."""


class Client:
    """Whom the loop serves, from its first packet to its end, and to that of its last child.

    `channel`: where it asks.  `open`: it may ask for more.  `mappings`: by the numbers that it gave
    them.  `replaced`: the serial of its request that a handover has carried out.  `protocol`,
    `door`, `lifeline`, `joined`: see `ClientRecord`.
    """

    def __init__(
        self,
        owner: Owner,
        channel: socket.socket,
        replaced: int = 0,
        protocol: str = "",
        door: str = "",
    ) -> None:
        self.owner = owner
        self.channel = channel
        self.open = True
        self.mappings: dict[int, Served] = {}
        self.replaced = replaced
        self.lifeline = LifeLine(-1, -1)  # where it shares what another one has mapped
        self.joined = 0
        self.protocol = protocol
        self.door = door
        self.conversation: Conversation | None = None
        self._recorded: msgspec.Raw | None = None

    @property
    def number(self) -> int:
        """Its own, never given to another of this family."""
        return self.owner.number

    @property
    def foreign(self) -> bool:
        """It is a program that does not know us: its end is SIGKILL, whatever it does about it."""
        return self.conversation is not None and self.conversation.foreign

    @property
    def over(self) -> bool:
        """Nothing of it is served, and nothing will be."""
        return not self.open and not self.mappings

    def changed(self) -> None:
        """What the record says of this client is not true any more."""
        self._recorded = None

    def record(self) -> msgspec.Raw:
        """For the journal, encoded."""
        if self._recorded is None:
            record = ClientRecord(
                number=self.number,
                process=self.owner.process,
                channel=self.channel.fileno(),
                name=self.owner.name,
                replaced=self.replaced,
                served=[served.record() for served in self.mappings.values()],
                protocol=self.protocol,
                door=self.door,
                lifeline=(self.lifeline.read, self.lifeline.write),
                joined=self.joined,
            )
            self._recorded = msgspec.Raw(encode(record))
        return self._recorded

    def close(self) -> None:
        """Close its descriptors, once no record names them."""
        if self.conversation is not None:
            self.conversation.close()
        self.channel.close()
        self.lifeline.disarm()
        self.lifeline.close()
        self.owner.close()
        os.close(self.owner.process)
