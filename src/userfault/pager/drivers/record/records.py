"""What a worker records of what it serves, so that a successor can go on: msgpack in the journal.

Descriptors are recorded as numbers: the family has one table.  Page states are not here, they lie
in shared memory of their own and are written in place.
"""

from __future__ import annotations

import msgspec

from userfault.kernel.errors import PagerError
from userfault.pager.core.plan import Counters
from userfault.pager.core.recorded import ContextRecord
from userfault.pager.drivers.record.journal import Journal
from userfault.pager.drivers.wire.messages import Attach, Failure, Hello
from userfault.uapi.userfaultfd import UFFD_EVENT_FORK, uffd_msg_fork


class Descriptors(msgspec.Struct):
    """The descriptors of an `Attach`, by name (-1: none)."""

    uffd: int
    states: int
    finished: int
    lifeline_read: int
    lifeline_write: int
    source: int = -1
    memory: int = -1
    signals: int = -1


class Kept(msgspec.Struct):
    """One userfaultfd, -1 once it is served no more.

    In the core's record the number of its states is the descriptor of the memory they lie in.
    `counters` are as old as the record: what a killed worker counted since is lost.
    """

    fd: int
    core: ContextRecord
    counters: Counters


class ServedRecord(msgspec.Struct):
    """One mapping: as it was asked for, and its contexts (the first is the client's own).

    `lost`: why nothing of it is filled any more.
    """

    attach: Attach
    fds: Descriptors
    contexts: list[Kept]
    failures: list[Failure]
    failed: int
    lost: str = ""


class FamilyRecord(msgspec.Struct):
    """Everything, after `applied` events of the batch that begins with message `batch`.

    `hello`: how the client wants the pager to work.  `numbers`: how many contexts were made so far.
    """

    hello: Hello
    batch: int = 0
    applied: int = 0
    numbers: int = 0
    served: list[msgspec.Raw] = []


_encoder = msgspec.msgpack.Encoder()
_families = msgspec.msgpack.Decoder(FamilyRecord)
_mappings = msgspec.msgpack.Decoder(ServedRecord)


def encode(record: FamilyRecord | ServedRecord) -> bytes:
    """As it is written to the journal."""
    return _encoder.encode(record)


def read(journal: Journal) -> tuple[FamilyRecord, list[ServedRecord]]:
    """The journal's record, and the mappings in it.  Raises PagerError for one that is none."""
    try:
        family = _families.decode(journal.record())
        return family, [_mappings.decode(each) for each in family.served]
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise PagerError(
            "the pager's journal cannot be read",
            cause=str(error),
            cure="restore again; and please report it: only the pager writes there",
        ) from None


def descriptors_in(journal: Journal) -> set[int]:
    """Every descriptor that the record names, or a FORK message that is not in it yet."""
    _, mappings = read(journal)
    found: set[int] = set()
    for served in mappings:
        found.update(msgspec.structs.astuple(served.fds))
        for context in served.contexts:
            found |= {context.fd, context.core.states}
    for message in journal.unfinished():
        if message[0] == UFFD_EVENT_FORK:
            found.add(uffd_msg_fork.struct.unpack_from(message)[1])
    return found
