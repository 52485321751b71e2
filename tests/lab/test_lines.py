"""The ports of a real guest that each carry one agent: used again, too few of them, dead agents."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator

import pytest

from userfault.check.live.link import Link
from userfault.check.live.wire import CONTROL, Kind, Op, Reply, Step
from userfault.lab.channels import Channel
from userfault.lab.guest import LINES, Guest
from userfault.lab.host import GuestHost
from userfault.lab.session import Session
from userfault.lab.store import Kernel

# One after the other: each machine keeps a processor busy.
pytestmark = [pytest.mark.xdist_group("lab"), pytest.mark.timeout(300)]

_KILL, _EXIT_GROUP = 62, 231
_LIMIT_S = 60.0


@pytest.fixture(scope="module")
def booted(kernel: Kernel) -> Iterator[Guest]:
    with Session(kernel) as session:
        yield session.guest()


@pytest.fixture
def guest(booted: Guest) -> Guest:
    """All its ports are free."""
    booted.reset()
    until(booted, lambda: len(booted.port.free) == LINES)
    return booted


def until(guest: Guest, happens: Callable[[], bool], *links: Link) -> None:
    deadline = time.monotonic() + _LIMIT_S
    while not happens():
        guest.port.wait(0.1, links)
        guest.port.receive()
        assert not guest.port.closed
        assert time.monotonic() < deadline, "it did not happen"


def replies(guest: Guest, link: Link, count: int) -> list[Reply]:
    found: list[Reply] = []

    def came() -> bool:
        found.extend(link.replies())
        return len(found) >= count or link.closed

    until(guest, came, link)
    return found


def agent(guest: Guest) -> tuple[Channel, Link]:
    """One that has said hello, and nothing else."""
    channel = guest.spawn()
    link = Link(channel)
    assert [(reply.kind, reply.task) for reply in replies(guest, link, 1)] == [(Kind.HELLO, 0)]
    return channel, link


def agent_with_port(guest: Guest) -> tuple[Channel, Link]:
    """The same, over a port of its own.

    The guest does without where a port's token is late (2 s, mux.c), as on a busy machine.
    """
    deadline = time.monotonic() + _LIMIT_S
    while time.monotonic() < deadline:
        channel, link = agent(guest)
        if channel.line is not None:
            return channel, link
        until(guest, lambda: bool(guest.port.free), link)
    raise AssertionError("no port can be had")


def file(name: str) -> bytes:
    return Step(Op.FILE, payload=name.encode() + b"\0", control=True).encode(CONTROL)


def own_pid(guest: Guest, link: Link) -> int:
    """As the kernel says it to whoever is at the other end."""
    link.send(file("/proc/self/stat"))
    return int(replies(guest, link, 1)[0].data.split()[0])


def call(number: int, *args: int) -> bytes:
    return Step(Op.SYSCALL, number, args).encode(0)


def test_a_port_is_used_again_and_nothing_that_is_left_in_it_reaches_the_next(
    guest: Guest,
) -> None:
    ports = []
    for _ in range(3 * LINES):
        channel, link = agent_with_port(guest)
        assert channel.line is not None
        ports.append(channel.line.number)
        assert own_pid(guest, link) == channel.pid

        # Answers of megabytes that nobody reads; then requests that nobody can take any more: of
        # these the socket, the port's buffers and the agent hold three quarters of a megabyte.
        link.send(*[file("/proc/kallsyms")] * 3, *[file("/proc/version")] * 40000)
        assert link.backlog
        guest.port.wait(0.05)
        guest.reset()
        until(guest, lambda: len(guest.port.free) > 1)

    assert len(set(ports)) == LINES
    assert min(map(ports.count, ports)) >= 2  # each is left alone as long as possible


def test_more_agents_than_ports(guest: Guest) -> None:
    agents = [agent_with_port(guest) for _ in range(LINES)]
    agents += [agent(guest) for _ in range(3)]

    assert [channel.line is not None for channel, _ in agents] == [True] * LINES + [False] * 3
    assert [own_pid(guest, link) for _, link in agents] == [channel.pid for channel, _ in agents]
    assert len({channel.pid for channel, _ in agents}) == LINES + 3


def test_a_dead_agent_shows_its_status_after_all_that_it_has_said(guest: Guest) -> None:
    host = GuestHost(guest)
    agents = [agent(guest) for _ in range(LINES + 1)]  # one has no port of its own
    for number, (channel, link) in enumerate(agents):
        end = call(_KILL, channel.pid, signal.SIGKILL) if number % 2 else call(_EXIT_GROUP, 7)
        link.send(file("/proc/version"))
        version = replies(guest, link, 1)
        link.send(end)
        rest = replies(guest, link, 1)

        assert version[0].data.startswith(b"Linux")
        assert rest == []
        assert link.closed
        assert host.status(channel.pid) == (-signal.SIGKILL if number % 2 else 7)

    until(guest, lambda: len(guest.port.free) == LINES)
    assert agent_with_port(guest)[0].line is not None


def test_a_port_is_free_although_a_forked_child_lives_on(guest: Guest) -> None:
    host = GuestHost(guest)
    channel, link = agent_with_port(guest)
    assert channel.line is not None
    parent = channel.line.number
    link.send(Step(Op.FORK, payload=host.callback_address()).encode(0))
    callers: list[tuple[int, Link]] = []

    def called() -> bool:
        callers.extend(host.callers())
        return bool(callers)

    until(guest, called, link)
    [(pid, child)] = callers
    assert replies(guest, child, 1)[0].kind is Kind.HELLO
    replies(guest, link, 1)
    link.send(call(_EXIT_GROUP, 0))
    until(guest, lambda: len(guest.port.free) == LINES, link)
    others = [agent_with_port(guest) for _ in range(LINES)]

    assert parent in {other.line.number for other, _ in others if other.line}
    assert own_pid(guest, child) == pid


def test_a_port_that_cannot_be_opened_is_done_without(guest: Guest) -> None:
    holder, _ = agent_with_port(guest)
    assert holder.line is not None
    guest.port.free.appendleft(holder.line)  # as if it were free

    channel, link = agent(guest)
    guest.port.free.remove(holder.line)

    assert channel.line is None
    assert own_pid(guest, link) == channel.pid
