"""What a client and its pager say to each other, over one Unix socket of type SEQPACKET.

One message a packet (`packets.py`), as msgpack; descriptors travel with the `Attach` that names
them.  Every request gets one reply with its serial, so that a client whose wait was interrupted by
Ctrl-C does not take a late reply for the next one's.
"""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Sequence
from typing import TypeAlias

import msgspec

from userfault.kernel.errors import PagerError
from userfault.linux import pidfd
from userfault.linux.pidfd import Sender, close_all
from userfault.pager.core.placing import Placing
from userfault.pager.core.plan import Counters
from userfault.pager.core.policy import Policy
from userfault.pager.core.segment import Segment
from userfault.pager.drivers.wire import packets
from userfault.snapshot.serving.counts import Counts
from userfault.snapshot.working_sets.place import Job
from userfault.source.spec import FunctionSpec, Spec

PROGRAM = "userfault.api.pager_main"


class Attach(msgspec.Struct, tag="attach"):
    """Serve [start, start + pages * page_size).  Descriptors, in this order: the userfaultfd, the
    states, the eventfd that says "finished", both ends of the life line; then the source's, if
    `has_source`, the memory's, if `has_memory`, the log of the client's signals, if `has_signals`,
    the file of the mapping's trace, if `has_trace`, the spill file's, if `has_spill`, the course of
    a replay, if `has_course`, and where first touches are noted, if `has_touches`.

    `prepared`: the page cache behind the memory holds every page already.  `evicts`: the memory is
    registered for write protection, and pages may be taken out of it.  `follows`: its budget is
    what the memory cgroup and the machine leave, and changes with that.  `regions`: where the pages
    are shown, if not in a row from `start` on; what none of them shows is never filled.  `backing`:
    which shared memory it is, in words of the program that serves; others may map it.
    `recording`: what is to be made of first touches; without the descriptor, of how useful the
    course was.
    `restored`: another program makes this process anew, and nobody but us holds the userfaultfd:
    memory that none of the regions has is registered too, and reads zero; pages may be there
    already.  `early`: it is not through with that, so that ranges are perhaps not registered yet.
    `tracked`: its writes are marked while it is filled, see `Plan`.
    `copy`: the memory is a private mapping of a shared copy of the source (`drivers/shared`), which
    the keeper has at this address (0: it is none).  Then three more descriptors come last: the
    copy's filler, its marks, and the claim on it.
    """

    number: int
    start: int
    pages: int
    page_size: int
    shared: bool
    zeropage: bool
    exists_is_ambiguous: bool
    has_poison: bool
    prepared: bool
    has_source: bool
    has_memory: bool
    source: Spec
    policy: Policy
    has_signals: bool = False
    has_trace: bool = False
    evicts: bool = False
    has_spill: bool = False
    follows: bool = False
    regions: tuple[Segment, ...] = ()
    backing: str = ""
    has_course: bool = False
    has_touches: bool = False
    recording: Job | None = None
    copy: int = 0
    restored: bool = False
    early: bool = False
    tracked: bool = False


class Detach(msgspec.Struct, tag="detach"):
    """The mapping is gone: forget it."""

    number: int


class Prefetch(msgspec.Struct, tag="prefetch"):
    """Fill pages [page, page + count) soon.  (A hint: it is lost with a worker that is killed.)"""

    number: int
    page: int
    count: int


class Complete(msgspec.Struct, tag="complete"):
    """Fill everything."""

    number: int


class GiveUp(msgspec.Struct, tag="give_up"):
    """Poison what is not filled."""

    number: int
    cause: str


class Load(msgspec.Struct, tag="load"):
    """Have a process load the function `source` for the mapping `number` that is to come; asked
    until it is ready.  It answers with up to `slot_bytes` at once.  Descriptor: the arguments,
    where they are large."""

    number: int
    source: FunctionSpec
    slot_bytes: int


class Ask(msgspec.Struct, tag="ask"):
    """How is it going?"""

    number: int


class Replace(msgspec.Struct, tag="replace"):
    """Hand over to processes made from the code that is installed now."""


class Admit(msgspec.Struct, tag="admit"):
    """Serve another process, too: descriptors are a socket where it will be asked for it, and its
    pidfd.  `number`: of this request, among those of its client.  `name`: what lines about it begin
    with on standard error."""

    number: int
    name: str


class Quit(msgspec.Struct, tag="quit"):
    """Detach everything and end."""


class Done(msgspec.Struct, tag="done"):
    """The request was carried out."""


class Loaded(msgspec.Struct, tag="loaded"):
    """Whether the function is `ready` to be called, or why it never will be (empty: not yet)."""

    ready: bool
    failure: str = ""


class Refused(msgspec.Struct, tag="refused"):
    """It was not, and why."""

    what: str
    cause: str
    cure: str


class Resumed(msgspec.Struct, tag="resumed"):
    """A worker serves now, the first or another: ask again whatever has no reply yet.

    Its serial is 0.
    """


class Failure(msgspec.Struct, frozen=True):
    """One page (or run of pages) given up: byte offset in the source, cause and cure."""

    offset: int
    cause: str
    cure: str


class Waited(msgspec.Struct, frozen=True):
    """A fault that has waited for longer than the policy's `fault_deadline_s`, as it was then.

    `offset`: in the source (-1: memory that mremap grew).  `state`: of its page.  `faults`: how
    many asked for the page.  `waits_for`: what the pager was waiting for.  `answer`: what was done
    about it: "report" (nothing), "alone" (its pages are read one by one), "poison" or "kill".
    """

    address: int
    offset: int
    mapping: str
    source: str
    state: str
    age_s: float
    faults: int
    waits_for: str
    answer: str


class Resident(msgspec.Struct, frozen=True):
    """How a mapping stands with its residency budget, in bytes.

    `budget`: what may be in memory; `resident`: what is; `written`: what of that stays, since the
    client wrote it; `spilled`: what is in the spill file.  `note`: what is to be known beside that
    (the budget is too small for what is used, the spill file is full), or empty.
    """

    budget: int
    resident: int
    written: int
    spilled: int
    note: str = ""


class Answer(msgspec.Struct, tag="answer"):
    """The counters, every failure so far (the first `MAX_FAILURES`), every fault that waited for
    too long (the first `MAX_OVERDUE`), and how many of those wait still.

    `cpu_s`: CPU time of the pager's worker so far, `polled_s`: of that, spent on polling.
    `most_in_flight`: reads of all mappings under way at once, at the highest.  `store`: for a
    snapshot in a store.  `residency`: of memory that has a budget.
    """

    counters: Counters
    failures: list[Failure]
    failed: int
    finished: bool
    contexts: int
    cpu_s: float
    polled_s: float
    overdue: list[Waited]
    waiting: int
    most_in_flight: int
    store: Counts | None = None
    residency: Resident | None = None


class Hello(msgspec.Struct, frozen=True):
    """The first packet to a new pager: how to work.  With it come the pidfd of its client and the
    memory where the client sees its status.

    `placing`: on which CPU.  `in_flight`: reads of sources under way at once, of all mappings.
    `version`: of the client's code.  Its standard error comes along too, if it has one.
    `program`: the module whose `main` and `succeed` the family's first process runs, and that of a
    family to come.
    """

    placing: Placing = Placing()
    in_flight: int = 32
    version: str = ""
    program: str = PROGRAM


VERSIONS = packets.VERSIONS
MAX_FAILURES = 64
MAX_OVERDUE = 16

Request: TypeAlias = (
    Load | Attach | Detach | Prefetch | Complete | GiveUp | Ask | Replace | Quit | Admit
)
Reply: TypeAlias = Done | Refused | Answer | Loaded | Resumed

_encoder = msgspec.msgpack.Encoder()
_requests: msgspec.msgpack.Decoder[Request] = msgspec.msgpack.Decoder(Request)
_replies: msgspec.msgpack.Decoder[Reply] = msgspec.msgpack.Decoder(Reply)


def send(
    channel: socket.socket,
    serial: int,
    message: Request | Reply,
    fds: Sequence[int] = (),
    *,
    flags: int = 0,
    sender: Sender | None = None,
) -> None:
    """Send one message with its descriptors.  Raises what `packets.send` raises."""
    packets.send(channel, serial, _encoder.encode(message), fds, flags=flags, sender=sender)


class Received(msgspec.Struct):
    """A request with its serial, its descriptors, and who sent it.  `request` is None at the end of
    the conversation."""

    serial: int
    request: Request | None
    fds: list[int]
    sender: Sender | None


def receive_request(channel: socket.socket) -> Received:
    """The next request.

    Raises BadRequestError for one that makes no sense, or whose descriptors were lost because this
    process may not hold more; OSError of the socket.
    """
    packet = packets.receive(channel)
    if packet.fault is not None:
        raise BadRequestError(packet.serial, *packet.fault)
    if packet.ended:
        return Received(0, None, packet.fds, packet.sender)
    try:
        request = _requests.decode(packet.data)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        close_all(packet.fds)
        raise BadRequestError(packet.serial, str(error), VERSIONS) from None
    return Received(packet.serial, request, packet.fds, packet.sender)


class BadRequestError(PagerError):
    """A request that cannot be taken; `serial` is the one to reply to."""

    def __init__(self, serial: int, cause: str, cure: str) -> None:
        super().__init__("the pager cannot take the request", cause=cause, cure=cure)
        self.serial = serial


def receive_reply(channel: socket.socket, serial: int) -> Reply | None:
    """The reply to request `serial`, or `Resumed`; None when the pager is gone.

    Raises PagerError for one that cannot be read, OSError of the socket.
    """
    while True:
        packet = packets.receive(channel)
        if packet.ended:
            return None
        if packet.serial not in (serial, 0):
            continue
        if packet.fault is not None:
            raise _unreadable(*packet.fault)
        reply = decoded_reply(packet.data)
        if packet.serial == serial or isinstance(reply, Resumed):
            return reply


def decoded_reply(data: bytes) -> Reply:
    """A message of the pager.  Raises PagerError for one that cannot be read."""
    try:
        return _replies.decode(data)
    except (msgspec.MsgspecError, ValueError) as error:
        raise _unreadable(str(error), VERSIONS) from None


def forget_replies(channel: socket.socket) -> None:
    """Throw away what nobody waits for any more, so that there is room for the next reply."""
    with contextlib.suppress(OSError):
        while True:
            data, fds, *_ = pidfd.receive(channel, 1, 1, flags=socket.MSG_DONTWAIT)
            close_all(fds)
            if not data:
                return  # the pager is gone, which the next request will find


def _unreadable(cause: str, cure: str) -> PagerError:
    return PagerError("the pager's reply cannot be read", cause=cause, cure=cure)
