"""What a client and its pager say to each other, over one Unix socket of type SEQPACKET.

One message a packet: a serial number, then msgpack; descriptors travel with the `Attach` that
names them.  Every request gets one reply with its serial, so that a client whose wait was
interrupted by Ctrl-C does not take a late reply for the next one's.
"""

from __future__ import annotations

import socket
import struct
from typing import TypeAlias

import msgspec

from userfault.kernel.errors import PagerError
from userfault.linux import pidfd
from userfault.linux.pidfd import close_all
from userfault.pager.core.placement import Placing
from userfault.pager.core.plan import Counters
from userfault.pager.core.policy import Policy
from userfault.snapshot.counts import Counts
from userfault.source.spec import Spec

MAX_MESSAGE = 1 << 17
MAX_DESCRIPTORS = 16


class Attach(msgspec.Struct, tag="attach"):
    """Serve [start, start + pages * page_size).  Descriptors, in this order: the userfaultfd, the
    states, the eventfd that says "finished", both ends of the life line; then the source's, if
    `has_source`, and the memory's, if `has_memory`.

    `prepared`: the page cache behind the memory holds every page already.
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


class Ask(msgspec.Struct, tag="ask"):
    """How is it going?"""

    number: int


class Replace(msgspec.Struct, tag="replace"):
    """Hand over to processes made from the code that is installed now."""


class Quit(msgspec.Struct, tag="quit"):
    """Detach everything and end."""


class Done(msgspec.Struct, tag="done"):
    """The request was carried out."""


class Refused(msgspec.Struct, tag="refused"):
    """It was not, and why."""

    what: str
    cause: str
    cure: str


class Resumed(msgspec.Struct, tag="resumed"):
    """Another worker serves now: ask again whatever has no reply yet.  Its serial is 0."""


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


class Answer(msgspec.Struct, tag="answer"):
    """The counters, every failure so far (the first `MAX_FAILURES`), every fault that waited for
    too long (the first `MAX_OVERDUE`), and how many of those wait still.

    `cpu_s`: CPU time of the pager's worker so far, `polled_s`: of that, spent on polling.
    `most_in_flight`: reads of all mappings under way at once, at the highest.  `store`: for a
    snapshot in a store.
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


class Hello(msgspec.Struct, frozen=True):
    """The first packet to a new pager, with the pidfd of its client and the journal: how to work.

    `placing`: on which CPU.  `in_flight`: reads of sources under way at once, of all mappings.
    """

    placing: Placing = Placing()
    in_flight: int = 32


MAX_FAILURES = 64
MAX_OVERDUE = 16

Request: TypeAlias = Attach | Detach | Prefetch | Complete | GiveUp | Ask | Replace | Quit
Reply: TypeAlias = Done | Refused | Answer | Resumed

_SERIAL = struct.Struct("=Q")
_encoder = msgspec.msgpack.Encoder()
_requests: msgspec.msgpack.Decoder[Request] = msgspec.msgpack.Decoder(Request)
_replies: msgspec.msgpack.Decoder[Reply] = msgspec.msgpack.Decoder(Reply)


def send(
    channel: socket.socket,
    serial: int,
    message: Request | Reply,
    fds: list[int] | None = None,
    *,
    flags: int = 0,
) -> None:
    """Send one message with its descriptors."""
    socket.send_fds(channel, [_SERIAL.pack(serial), _encoder.encode(message)], fds or [], flags)


def receive_request(channel: socket.socket) -> tuple[int, Request | None, list[int]]:
    """The next request with its serial and descriptors; None at the end of the conversation.

    Raises BadRequestError for one that makes no sense, or whose descriptors were lost because this
    process may not hold more.
    """
    data, fds, lost = pidfd.receive(channel, MAX_MESSAGE, MAX_DESCRIPTORS)
    if not data:
        return 0, None, fds
    serial = 0
    try:
        (serial,) = _SERIAL.unpack_from(data)
        request = _requests.decode(data[_SERIAL.size :])
    except (struct.error, msgspec.MsgspecError) as error:
        close_all(fds)
        raise BadRequestError(serial, str(error), "use client and pager of one version") from None
    if lost:
        close_all(fds)
        cure = "raise `ulimit -n`, or use another Pager()"
        raise BadRequestError(serial, "it has no descriptor left", cure)
    return serial, request, fds


class BadRequestError(PagerError):
    """A request that cannot be taken; `serial` is the one to reply to."""

    def __init__(self, serial: int, cause: str, cure: str) -> None:
        super().__init__("the pager cannot take the request", cause=cause, cure=cure)
        self.serial = serial


def receive_reply(channel: socket.socket, serial: int) -> Reply | None:
    """The reply to request `serial`, or `Resumed`; None when the pager is gone."""
    while True:
        data = channel.recv(MAX_MESSAGE)
        if not data:
            return None
        if _SERIAL.unpack_from(data)[0] in (serial, 0):
            return _replies.decode(data[_SERIAL.size :])
