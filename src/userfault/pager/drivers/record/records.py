"""What a worker records of what it serves, so that a successor can go on: msgpack in the journal.

Descriptors are recorded as numbers: the family has one table.  Page states are not here, they lie
in shared memory of their own and are written in place.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

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
    trace: int = -1
    spill: int = -1
    course: int = -1
    touches: int = -1
    filler: int = -1
    marks: int = -1
    claim: int = -1


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


class ClientRecord(msgspec.Struct):
    """One client: descriptors of its process and of the socket where it asks, and what it mapped.

    `number`: its own, never given to another.  `name`: what lines about it begin with on standard
    error.  `replaced`: the serial of its request that a handover has carried out.  `protocol`: what
    is spoken with it ("": our own).  `door`: by which it came, if the program has several.
    `lifeline`: both ends of its own, where none of what it mapped has one, but its memory is a
    further context of what another client mapped: `joined`, by the context's number.
    """

    number: int
    process: int
    channel: int
    name: str = ""
    replaced: int = 0
    served: list[msgspec.Raw] = []
    protocol: str = ""
    door: str = ""
    lifeline: tuple[int, int] = (-1, -1)
    joined: int = 0


class FamilyRecord(msgspec.Struct):
    """Everything, after `applied` events of the batch that begins with message `batch`.

    `hello`: how the pager is to work.  `numbers`, `people`: how many contexts and clients there
    have been so far.  `kept`: further descriptors that outlive a worker, and `about`: what the
    program of the worker records of them, in a form of its own.
    """

    hello: Hello
    batch: int = 0
    applied: int = 0
    numbers: int = 0
    people: int = 0
    kept: list[int] = []
    clients: list[msgspec.Raw] = []
    about: bytes = b""


class Change(msgspec.Struct):
    """What is different from the record before: these `clients`, and those that have `gone`."""

    batch: int
    applied: int
    numbers: int
    people: int
    clients: list[msgspec.Raw] = []
    gone: list[int] = []


class Person(msgspec.Struct):
    """A client as it was recorded, and its mappings."""

    client: ClientRecord
    mappings: list[ServedRecord]


_encoder = msgspec.msgpack.Encoder()
_families = msgspec.msgpack.Decoder(FamilyRecord)
_changes = msgspec.msgpack.Decoder(Change)
_clients = msgspec.msgpack.Decoder(ClientRecord)
_mappings = msgspec.msgpack.Decoder(ServedRecord)


def encode(record: FamilyRecord | Change | ClientRecord | ServedRecord) -> bytes:
    """As it is written to the journal."""
    return _encoder.encode(record)


def read(journal: Journal) -> tuple[FamilyRecord, list[Person]]:
    """The journal's record, and the clients in it.  Raises PagerError for one that is none."""
    try:
        whole, *changes = journal.parts() or [b""]
        family = _families.decode(whole)
        clients = list(map(_clients.decode, family.clients))
        if changes:
            clients = _changed(family, clients, map(_changes.decode, changes))
        return family, [Person(each, list(map(_mappings.decode, each.served))) for each in clients]
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise PagerError(
            "the pager's journal cannot be read",
            cause=str(error),
            cure="restore again; and please report it: only the pager writes there",
        ) from None


def _changed(
    family: FamilyRecord, clients: list[ClientRecord], changes: Iterable[Change]
) -> list[ClientRecord]:
    """The clients as they are now; `family` is brought up to date."""
    by_number = {each.number: each for each in clients}
    for change in changes:
        by_number |= {each.number: each for each in map(_clients.decode, change.clients)}
        for number in change.gone:
            by_number.pop(number, None)
        family.batch, family.applied = change.batch, change.applied
        family.numbers, family.people = change.numbers, change.people
    family.clients = [msgspec.Raw(encode(each)) for each in by_number.values()]
    return list(by_number.values())


def kept_in(journal: Journal) -> list[int]:
    """Descriptors that the family keeps beside those of its clients."""
    return read(journal)[0].kept


def descriptors_in(journal: Journal) -> set[int]:
    """Every descriptor that the record names, or a FORK message that is not in it yet."""
    family, people = read(journal)
    found = set(family.kept)
    for person in people:
        found |= {person.client.process, person.client.channel, *person.client.lifeline}
        for served in person.mappings:
            found.update(msgspec.structs.astuple(served.fds))
            for context in served.contexts:
                found |= {context.fd, context.core.states}
    for message in journal.unfinished():
        if message[0] == UFFD_EVENT_FORK:
            found.add(uffd_msg_fork.struct.unpack_from(message)[1])
    return found


def renumbered(journal: Journal, here: Callable[[int], int], replaced: tuple[int, int]) -> bytes:
    """The record with the number that `here` gives for each descriptor, encoded.

    `replaced`: the client, and the serial of its request, that has just been carried out.
    """
    family, people = read(journal)
    whose, serial = replaced
    clients = []
    for person in people:
        served = [_renumbered(each, here) for each in person.mappings]
        client = msgspec.structs.replace(
            person.client,
            process=here(person.client.process),
            channel=here(person.client.channel),
            lifeline=tuple(map(here, person.client.lifeline)),
            served=[msgspec.Raw(encode(each)) for each in served],
        )
        if client.number == whose:
            client.replaced = serial
        clients.append(msgspec.Raw(encode(client)))
    kept = list(map(here, family.kept))
    return encode(msgspec.structs.replace(family, kept=kept, clients=clients))


def _renumbered(served: ServedRecord, here: Callable[[int], int]) -> ServedRecord:
    fds = Descriptors(*map(here, msgspec.structs.astuple(served.fds)))
    contexts = [
        Kept(
            here(kept.fd),
            msgspec.structs.replace(kept.core, states=here(kept.core.states)),
            kept.counters,
        )
        for kept in served.contexts
    ]
    return msgspec.structs.replace(served, fds=fds, contexts=contexts)
