"""A move arrives whole whatever happens to its connection, and at each moment one side runs."""

from __future__ import annotations

import contextlib
import mmap
import os
import resource
import signal
import socket
import threading
from collections.abc import Callable, Iterator

import pytest

from helpers.leaks import nothing_left
from helpers.pages import PAGE
from helpers.waiting import wait_until
from migrate.between import Between
from migrate.scene import Arrival, Counting, Writer, moved
from userfault.kernel.errors import MemoryUnavailable, PagerError, Unavailable, UsageError
from userfault.migrate import control
from userfault.migrate.errors import HalfMoved, NotMoved, NotReceived
from userfault.migrate.frames import Kind
from userfault.migrate.receiving import Receiver
from userfault.migrate.sending import Progress, send
from userfault.uapi.mman import MAP_NORESERVE

PAGES = 600
SAID = [kind for kind in Kind if kind not in (Kind.HELLO, Kind.REFUSED, Kind.ALIVE, Kind.BYE)]

FOLLOWING = (Kind.PAGES, Kind.ASK, Kind.RUNNING)


@pytest.fixture(autouse=True)
def leaves_nothing() -> Iterator[None]:
    with nothing_left():
        yield


@pytest.fixture
def writer() -> Iterator[Writer]:
    made = Writer(PAGES)
    yield made
    made.close()


@pytest.mark.parametrize(("rounds", "memory"), [(0, "anon"), (1, "shmem"), (3, "anon")])
def test_all_of_it_arrives_as_it_was_when_it_stopped(
    writer: Writer, rounds: int, memory: str
) -> None:
    with Arrival(memory=memory) as arrival:
        sent = moved(writer, arrival, arrival.address, rounds=rounds)
    assert (sent.breaks, sent.pages) == (0, PAGES)
    assert bool(sent.before) == bool(rounds)
    assert sent.stopped_s > 0


@pytest.mark.parametrize(
    ("kind", "rounds"),
    [(kind, 2) for kind in SAID] + [(kind, 0) for kind in FOLLOWING],
    ids=lambda value: getattr(value, "name", f"rounds-{value}"),
)
def test_a_connection_that_breaks_at_a_frame_is_taken_up_again(
    writer: Writer, kind: Kind, rounds: int
) -> None:
    """Where no such frame comes it is a move like any other."""
    breaks = {(kind, 1), (kind, 2)}
    if kind in (Kind.WELCOME, Kind.HAVE):  # without the first there is no move: then the second
        breaks = {(Kind.PAGES, 3), (kind, 2)}
    with (
        Arrival() as arrival,
        Between(arrival.address, lambda *seen: None if seen in breaks else True) as between,
    ):
        moved(writer, arrival, between.address, rounds=rounds)


def test_a_page_that_was_sent_anew_and_lost_is_not_taken_for_the_old_one() -> None:
    """In the second round the receiver has old bytes of each page that is on its way."""
    writer = Writer(64, writes=False)
    rounds: list[int] = []

    def progress(at: Progress) -> None:
        if at.phase == "copying" and at.round == 0 and not rounds:
            rounds.append(0)

    def rule(found: Kind, seen: int) -> bool | None:
        if found is Kind.PAGES and seen == 3:  # each memory is a frame; the third: anew
            return None
        if found is Kind.PAGES and seen == 2:
            for memory in writer.memories:
                memory[7] = 99  # written behind the first round's back
        return True

    with Arrival() as arrival, Between(arrival.address, rule) as between:
        moved(writer, arrival, between.address, rounds=5, progress=progress)
    writer.close()


def test_a_silence_is_noticed_and_the_move_goes_on(writer: Writer) -> None:
    """What is swallowed breaks nothing by itself: each side has to notice that nothing comes."""

    def rule(found: Kind, seen: int) -> bool:
        return (found, seen) != (Kind.PAGES, 4)

    with Arrival() as arrival, Between(arrival.address, rule) as between:
        assert moved(writer, arrival, between.address).breaks == 1


@pytest.mark.parametrize("lost", [Kind.SWITCH, Kind.READY], ids=["SWITCH", "READY"])
def test_it_runs_on_here_where_the_receiver_is_not_heard_to_be_ready(
    writer: Writer, lost: Kind
) -> None:
    def rule(found: Kind, _: int) -> bool | None:
        if found is lost:
            between.open = False
        return True if between.open else None

    with Arrival(patience_s=1.0) as arrival, Between(arrival.address, rule) as between:
        with pytest.raises(NotMoved, match="runs on here"):
            send(writer.moving(), between.address, tls=None, still_s=0.5)
        assert writer.runs
        assert isinstance(arrival.failed(), NotReceived)
        assert not arrival.guest.resumed


def test_it_is_the_receivers_from_the_moment_on_that_it_is_given(writer: Writer) -> None:
    """GO is lost: whether it has come the sender cannot know, so it never runs here again."""

    def rule(found: Kind, _: int) -> bool | None:
        if found is Kind.GO:
            between.open = False
        return True if between.open else None

    with Arrival(patience_s=1.0) as arrival, Between(arrival.address, rule) as between:
        with pytest.raises(HalfMoved, match="after the switch"):
            send(writer.moving(), between.address, tls=None, patience_s=0.5)
        assert not writer.runs
        assert isinstance(arrival.failed(), NotReceived)
        assert not arrival.guest.resumed


@pytest.mark.parametrize("when", ["copying", "switching", "following"])
def test_a_receiver_that_is_killed_leaves_it_here_until_it_is_given(when: str) -> None:
    writer = Writer(PAGES, writes=False)

    def progress(at: Progress) -> None:
        if at.phase == when and not killed:
            killed.append(at.phase)
            os.kill(arrival.receiver.pid, signal.SIGKILL)

    killed: list[str] = []
    with Arrival() as arrival:
        error = HalfMoved if when == "following" else NotMoved
        with pytest.raises(error):
            send(
                writer.moving(),
                arrival.address,
                tls=None,
                patience_s=0.5,
                still_s=0.5,
                progress=progress,
            )
        assert writer.runs == (when == "switching")  # it was resumed; else it was never stopped
        assert writer.stops == (when != "copying")
    writer.close()


def test_a_sender_that_is_lost_for_good_is_told_and_nothing_reads_zero(writer: Writer) -> None:
    def rule(found: Kind, _: int) -> bool | None:
        if found in (Kind.PAGES, Kind.ZEROS):  # without rounds none comes before GO
            between.open = False
        return True if between.open else None

    with Arrival(patience_s=1.0) as arrival, Between(arrival.address, rule) as between:
        with pytest.raises(HalfMoved):
            send(writer.moving(), between.address, tls=None, rounds=0, patience_s=0.3)
        received = arrival.join()
        with pytest.raises(NotReceived, match="lost"):
            received.wait(60)
        assert arrival.guest.resumed == 1


def test_too_little_memory_there_is_found_before_anything_stops(writer: Writer) -> None:
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | MAP_NORESERVE
    moving = writer.moving()
    with contextlib.closing(mmap.mmap(-1, 1 << 41, flags=flags)) as memory, Arrival() as arrival:
        moving.memories = [memory]  # more than there is; nothing of it is touched
        with pytest.raises(NotMoved, match="leaves"):
            send(moving, arrival.address, tls=None)
        assert isinstance(arrival.failed(), MemoryUnavailable)
    assert (writer.runs, writer.stops) == (True, 0)


def test_a_state_that_is_refused_there_goes_on_here(writer: Writer) -> None:
    guest = Counting(Unavailable("these registers", cause="KVM refuses them"))
    with Arrival(guest) as arrival:
        with pytest.raises(NotMoved, match="KVM refuses them"):
            send(writer.moving(), arrival.address, tls=None)
        assert isinstance(arrival.failed(), Unavailable)
    assert (writer.runs, guest.resumed, guest.closed) == (True, 0, 1)


def until_refused(between: Between) -> Callable[[Progress], None]:
    """The sender pushes nothing after the switch before it was told that something is wrong."""

    def progress(at: Progress) -> None:
        if at.phase == "following":
            wait_until(lambda: Kind.REFUSED in between.seen)

    return progress


@pytest.mark.parametrize(
    ("error", "cause"),
    [
        (Unavailable("the guest has failed", cause="it asked\nfor port 7"), "asked for port 7"),
        (KeyboardInterrupt(), "ended: KeyboardInterrupt"),
        (None, "closed before all pages were in"),
    ],
    ids=["failed", "interrupted", "closed"],
)
def test_what_ends_a_receiver_after_the_switch_the_sender_is_told(
    error: BaseException | None, cause: str
) -> None:
    """At once, in one line; and what it still has is as it was."""
    writer = Writer(PAGES, writes=False)
    before = writer.content()

    def receive() -> None:
        with contextlib.suppress(Unavailable, KeyboardInterrupt), arrival.join():
            if error is not None:
                raise error

    with Arrival() as arrival, Between(arrival.address) as between:
        thread = threading.Thread(target=receive)
        thread.start()
        with pytest.raises(HalfMoved, match="failed after the switch") as told:
            send(
                writer.moving(),
                between.address,
                tls=None,
                rounds=0,
                patience_s=1e6,
                progress=until_refused(between),
            )
        thread.join()
    assert cause in told.value.cause
    assert "\n" not in told.value.cause
    assert not writer.runs
    assert writer.content() == before
    writer.close()


def test_a_guest_that_cannot_be_let_run_there_is_told_to_its_sender(writer: Writer) -> None:
    """It is the receiver's by then."""
    guest = Counting(runs=Unavailable("this guest", cause="KVM refuses to run it"))
    with Arrival(guest) as arrival:
        with pytest.raises(HalfMoved, match="failed after") as told:
            send(writer.moving(), arrival.address, tls=None, patience_s=1e6)
        assert isinstance(arrival.failed(), Unavailable)
    assert "KVM refuses to run it" in told.value.cause
    assert (writer.runs, guest.closed) == (False, 1)


@pytest.mark.parametrize("when", ["copying", "following"])
def test_a_receiver_that_has_no_room_for_what_comes_is_no_connection_that_breaks(
    when: str,
) -> None:
    """It would be taken up again for ever."""
    writer = Writer(PAGES, writes=False)

    def progress(at: Progress) -> None:
        if at.phase == when:
            resource.prlimit(arrival.receiver.pid, resource.RLIMIT_FSIZE, (PAGE, PAGE))

    error = HalfMoved if when == "following" else NotMoved
    with Arrival() as arrival, pytest.raises(error) as told:
        send(
            writer.moving(),
            arrival.address,
            tls=None,
            rounds=0 if when == "following" else 1,
            patience_s=1e6,
            progress=progress,
        )
    assert "pages that came cannot be kept" in told.value.cause
    assert writer.stops == (when == "following")
    writer.close()


def test_whoever_waits_at_a_receiver_that_another_thread_closes_hears_so() -> None:
    receiver = Receiver("127.0.0.1:0", tls=None)
    receiver.close()
    waits: list[Callable[[], object]] = [
        receiver._look,
        lambda: receiver._next(1),
        lambda: receiver._send(control.Complete()),
    ]
    for each in waits:
        with pytest.raises(PagerError, match="was closed"):
            each()


def test_a_receiver_takes_one_move_and_its_token_alone(writer: Writer) -> None:
    other = Writer(16)

    def rule(found: Kind, seen: int) -> bool:
        if found is Kind.PAGES and seen == 2:
            with pytest.raises(NotMoved, match="another sender"):
                send(other.moving(), arrival.address, tls=None)
            refused.append(other.runs)
        return True

    refused: list[bool] = []
    with Arrival() as arrival, Between(arrival.address, rule) as between:
        moved(writer, arrival, between.address)
    assert refused == [True]
    other.close()


def test_peers_that_speak_nonsense_or_nothing_hold_nobody_up(writer: Writer) -> None:
    with Arrival() as arrival:
        host, port = arrival.address.split(":")
        silent = [socket.create_connection((host, int(port))) for _ in range(3)]
        silent[0].sendall(b"GET / HTTP/1.0\r\n\r\n")
        moved(writer, arrival, arrival.address)
        for each in silent:
            each.close()


def test_nobody_there_is_told_at_once(writer: Writer) -> None:
    with pytest.raises(NotMoved, match="refused") as told:
        send(writer.moving(), "127.0.0.1:1", tls=None)
    assert "userfault receive" in told.value.cure
    assert (writer.runs, writer.stops) == (True, 0)


def test_an_address_that_is_taken_is_an_error_of_usage() -> None:
    with Arrival() as arrival, pytest.raises(UsageError, match="cannot receive"):
        Receiver(arrival.address, tls=None)


def test_a_receiver_that_is_closed_waits_no_more() -> None:
    arrival = Arrival()
    arrival.close()
    assert arrival.error is not None
