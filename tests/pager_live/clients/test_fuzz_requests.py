"""A fuzzer for the pager's own socket.

Whatever a client sends (packets of any bytes, requests with any values in them, with descriptors of
any kind in any order, from its own process or a child's), the invariant is:

* each packet that has a serial gets one reply with that serial, and nothing waits for ever;
* no process of the family ends, and none has an error of its own;
* memory that was served before is served on, and right;
* the pager holds no descriptor more than it did;
* no code is run that an entitled request did not name.

USERFAULT_EXAMPLES=N runs N examples of each property.
"""

from __future__ import annotations

import contextlib
import os
import socket
import tempfile
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import userfault
from helpers.pages import PAGE, numbers, pages
from helpers.waiting import wait_until
from userfault import Policy, lazy
from userfault.kernel.modes import Feature, Mode
from userfault.linux import libc, rights
from userfault.linux.lifeline import LifeLine
from userfault.linux.pidfd import close_all
from userfault.linux.uffd import LiveUserfaultfd
from userfault.pager.drivers.wire import messages, packets
from userfault.uapi import mman

EXAMPLES = int(os.environ.get("USERFAULT_EXAMPLES", "0"))
LENGTH = 8 * PAGE
SOUND = 1  # the number of the mapping that has to be served on
DEMAND = Policy(background=False, retries=0)


def fuzzing(examples: int) -> settings:
    return settings(
        max_examples=EXAMPLES or examples,
        deadline=None,
        derandomize=not EXAMPLES,
        suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    )


class Attacked:
    """A pager, memory that it serves, and descriptors of every kind to be sent to it."""

    def __init__(self, pager: userfault.Pager, sound: userfault.LazyMemory) -> None:
        self.pager = pager
        self.sound = sound
        self.channel = pager._family.channel
        self.sender = rights.credentials(os.geteuid(), os.getegid())
        self.serial = 1 << 32
        self.seen = 0
        self.processes = pager.processes()

    def send(self, data: bytes, fds: list[int]) -> str:
        """Send a packet with a serial; the tag of the reply with that serial."""
        self.serial += 1
        messages.forget_replies(self.channel)
        packets.send(self.channel, self.serial, data, fds, sender=self.sender)
        self.channel.settimeout(20)
        reply = messages.receive_reply(self.channel, self.serial)
        self.channel.settimeout(None)
        assert reply is not None, "the pager has gone"
        return str(type(reply).__struct_config__.tag)

    def judge(self, held: int) -> None:
        """The invariant, but for the replies; `held`: the descriptors that the pager had."""
        page = self.seen % 8
        self.seen += 1
        assert numbers(self.sound[page * PAGE : (page + 1) * PAGE]) == [page + 1]
        assert self.pager.processes() == self.processes
        assert self.pager.takeovers == 0
        # The family has one open for a moment now and then; what is left open stays.
        wait_until(lambda: self.descriptors() <= held)

    def descriptors(self) -> int:
        return len(os.listdir(f"/proc/{self.processes['worker']}/fd"))

    def detach_all(self, numbers_: set[int]) -> None:
        for number in numbers_ - {SOUND}:
            if abs(number) < 1 << 63:
                self.send(encoded(messages.Detach(number)), [])


@pytest.fixture(scope="module")
def attacked() -> Iterator[Attacked]:
    with userfault.Pager() as pager, lazy(pages(1, 8), pager=pager, policy=DEMAND) as sound:
        assert sound._parts.number == SOUND
        assert numbers(sound[:PAGE]) == [1]
        yield Attacked(pager, sound)
        sound.check()


def encoded(message: Any) -> bytes:
    return msgspec.msgpack.encode(message)


# --- what is sent ---------------------------------------------------------------------------------

ints = st.one_of(
    st.integers(-2, 20),
    st.integers(-(1 << 63), (1 << 64) - 1),
    st.sampled_from([PAGE, LENGTH, 1 << 21, 1 << 30, (1 << 47) - PAGE, 1 << 57]),
)
plain = st.one_of(st.none(), st.booleans(), ints, st.floats(), st.text(max_size=5))
values = st.recursive(
    st.one_of(plain, st.binary(max_size=9)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4), st.dictionaries(st.text(max_size=6), inner, max_size=4)
    ),
    max_leaves=8,
)
sources: st.SearchStrategy[dict[str, Any]] = st.one_of(
    st.builds(dict, type=st.just("zero"), length=ints),
    st.builds(
        dict, type=st.just("file"), length=ints, offset=ints, size=ints, mtime_ns=ints,
        name=st.text(max_size=9),
    ),
    st.builds(
        dict, type=st.just("store"), length=ints, url=st.just("/nowhere"), name=st.text(max_size=9),
        digest=st.binary(max_size=40),
    ),
)  # fmt: skip
KINDS = ("uffd", "states", "eventfd", "pipe_read", "pipe_write", "file", "socket", "null", "memfd")
kinds = st.lists(st.sampled_from(KINDS), max_size=9)
fields = st.fixed_dictionaries(
    {},
    optional={
        "number": ints, "start": ints, "pages": ints, "page_size": ints, "shared": st.booleans(),
        "zeropage": st.booleans(), "exists_is_ambiguous": st.booleans(),
        "has_poison": st.booleans(), "prepared": st.booleans(), "has_source": st.booleans(),
        "has_memory": st.booleans(), "source": sources, "policy": values,
    },
)  # fmt: skip


@contextlib.contextmanager
def descriptors(chosen: list[str]) -> Iterator[dict[str, list[int]]]:
    """Descriptors to be sent: what an honest client would send, and `chosen` ones."""
    with contextlib.ExitStack() as end:
        uffd = end.enter_context(LiveUserfaultfd.open(Feature.EVENT_UNMAP))
        flags = mman.MAP_PRIVATE | mman.MAP_ANONYMOUS
        start = libc.mmap(0, LENGTH, mman.PROT_READ, flags, -1, 0)
        end.callback(libc.munmap, start, LENGTH)
        end.callback(uffd.close)  # before: nobody may have to read of it
        uffd.register(start, LENGTH, Mode.MISSING)
        states = os.memfd_create("states", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        end.callback(os.close, states)
        os.ftruncate(states, 8)
        import fcntl

        fcntl.fcntl(states, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK)
        event = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        end.callback(os.close, event)
        line = LifeLine(*os.pipe2(os.O_CLOEXEC))
        end.callback(line.close)
        ours, theirs = socket.socketpair()
        end.callback(ours.close)
        end.callback(theirs.close)
        null = os.open("/dev/null", os.O_RDWR)
        memory = os.memfd_create("memory", os.MFD_CLOEXEC)
        file = end.enter_context(tempfile.TemporaryFile())
        file.truncate(LENGTH)
        end.callback(close_all, [null, memory])
        made = dict(
            zip(
                KINDS,
                [uffd.fileno(), states, event, line.read, line.write, file.fileno(),
                 ours.fileno(), null, memory],
                strict=True,
            )
        )  # fmt: skip
        yield {
            "start": [start],
            "right": [uffd.fileno(), states, event, line.read, line.write],
            "chosen": [made[each] for each in chosen],
        }


def honest(start: int) -> dict[str, Any]:
    """An `Attach` that would be taken."""
    attach = messages.Attach(
        number=77, start=start, pages=8, page_size=PAGE, shared=False, zeropage=True,
        exists_is_ambiguous=False, has_poison=True, prepared=False, has_source=False,
        has_memory=False, source=userfault.zero(LENGTH), policy=DEMAND,
    )  # fmt: skip
    found: dict[str, Any] = msgspec.to_builtins(attach)
    return found


# --- properties -----------------------------------------------------------------------------------


@fuzzing(200)
@given(data=st.one_of(st.binary(max_size=200), values.map(encoded)), chosen=kinds)
def test_any_bytes_get_one_reply(attacked: Attacked, data: bytes, chosen: list[str]) -> None:
    held = attacked.descriptors()
    with descriptors(chosen) as made:
        assert attacked.send(data, made["chosen"]) == "refused"
    attacked.judge(held)


@fuzzing(200)
@given(changed=fields, chosen=kinds, right=st.booleans())
def test_any_attach_is_carried_out_or_refused(
    attacked: Attacked, changed: dict[str, Any], chosen: list[str], right: bool
) -> None:
    held = attacked.descriptors()
    with descriptors(chosen) as made:
        message = {**honest(made["start"][0]), **changed}
        fds = made["right"] + made["chosen"] if right else made["chosen"]
        reply = attacked.send(encoded(message), fds[: packets.MAX_DESCRIPTORS])
        assert reply in ("done", "refused")
        if not changed and right and not chosen:
            assert reply == "done"
        if isinstance(message["number"], int):
            attacked.detach_all({message["number"]})
    attacked.judge(held)


@fuzzing(200)
@given(
    kind=st.sampled_from(["prefetch", "complete", "give_up", "ask", "detach", "nothing"]),
    number=st.one_of(st.just(77), ints),
    page=ints,
    count=ints,
    cause=st.text(max_size=40),
)
def test_any_request_about_a_mapping_is_answered(
    attacked: Attacked, kind: str, number: int, page: int, count: int, cause: str
) -> None:
    if number == SOUND:
        return  # it may be told to go
    held = attacked.descriptors()
    with descriptors([]) as made:
        assert attacked.send(encoded(honest(made["start"][0])), made["right"]) == "done"
        message = {
            "type": kind, "number": number, "page": page, "count": count, "cause": cause,
        }  # fmt: skip
        assert attacked.send(encoded(message), []) in ("done", "answer", "refused")
        attacked.detach_all({77})
    attacked.judge(held)


@fuzzing(100)
@given(header=st.binary(max_size=40), chosen=kinds)
def test_any_packet_leaves_the_next_one_answered(
    attacked: Attacked, header: bytes, chosen: list[str]
) -> None:
    """Also without a serial, and with lengths that lie."""
    held = attacked.descriptors()
    with descriptors(chosen) as made:
        control = [attacked.sender.ancillary]
        passed = made["chosen"]
        if passed:
            import array

            rights_ = array.array("i", passed).tobytes()
            control.append((socket.SOL_SOCKET, socket.SCM_RIGHTS, rights_))
        attacked.channel.sendmsg([header], control)
        assert attacked.send(encoded(messages.Ask(SOUND)), []) == "answer"
    attacked.judge(held)


def test_a_function_that_others_name_is_not_called(attacked: Attacked) -> None:
    """Not by a child of the client, which has its socket."""
    spec = {
        "type": "function", "length": LENGTH, "target": "os:system",
        "arguments": b"", "path": [], "stored": 0,
    }  # fmt: skip
    with descriptors([]) as made:
        message = {**honest(made["start"][0]), "source": spec}
        kept = socket.socket(fileno=os.dup(attacked.channel.fileno()))  # ours lets go of it
        pid = os.fork()
        if not pid:
            try:
                sender = rights.credentials(os.geteuid(), os.getegid())
                packets.send(kept, 5, encoded(message), made["right"], sender=sender)
            finally:
                os._exit(0)
        os.waitpid(pid, 0)
        kept.close()
        reply = messages.receive_reply(attacked.channel, 5)
    assert isinstance(reply, messages.Refused)
    assert reply.what == "the pager serves another process"
