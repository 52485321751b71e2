"""Memory of `lazy()` moves by itself: what was filled, what was not yet, and what was written."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

import userfault
from helpers.leaks import nothing_left
from helpers.pages import PAGE
from migrate.between import Between
from migrate.scene import Arrival
from userfault.migrate.errors import NotMoved
from userfault.migrate.frames import Kind
from userfault.migrate.sending import Memories, Progress, send
from userfault.pager.core.states import PRESENT

PAGES = 600
DEMAND = userfault.Policy(background=False, record="never", fill_around="page")


@pytest.fixture(autouse=True)
def leaves_nothing() -> Iterator[None]:
    with nothing_left():
        yield


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "image"
    path.write_bytes(
        b"".join(number.to_bytes(4, "little") * (PAGE // 4) for number in range(PAGES))
    )
    return path


def expected(image: Path, written: dict[int, int]) -> bytes:
    data = bytearray(image.read_bytes())
    for at, value in written.items():
        data[at] = value
    return bytes(data)


@pytest.mark.parametrize("rounds", [0, 2])
def test_what_was_touched_written_or_never_filled_arrives(image: Path, rounds: int) -> None:
    """Some of it is written while it is on its way, and some as the last before it stops."""
    written: dict[int, int] = {}

    def write(at: int) -> None:
        memory[at] = written[at] = 99

    def progress(at: Progress) -> None:
        if at.phase == "copying" and not written.get(7 * PAGE):
            write(7 * PAGE)

    def stop() -> bytes:
        write(300 * PAGE + 5)
        return b"where it is"

    with userfault.lazy(image, writable=True, track=True, policy=DEMAND) as memory:
        write(PAGE)
        assert memory.page_states[:].count(PRESENT) <= 1  # the rest is read for the move
        with Arrival() as arrival:
            send(
                Memories([memory], stop, lambda: None),
                arrival.address,
                tls=None,
                rounds=rounds,
                progress=progress,
            )
            received = arrival.join()
            assert received.wait(60)
            assert received.state == b"where it is"
            assert bytes(received.memories[0]) == expected(image, written)
    assert bool(written.get(7 * PAGE)) == bool(rounds)


def test_a_page_is_touched_there_while_nobody_is_connected(image: Path) -> None:
    """Who touches it waits for the next connection, and for nothing else."""

    def rule(kind: Kind, seen: int) -> bool | None:
        return None if (kind, seen) in {(Kind.RUNNING, 1), (Kind.PAGES, 2)} else True

    with (
        userfault.lazy(image, writable=True, policy=DEMAND) as memory,
        Arrival() as arrival,
        Between(arrival.address, rule) as between,
    ):
        sent = send(
            Memories([memory], lambda: b"", lambda: None), between.address, tls=None, rounds=0
        )
        received = arrival.join()
        assert received.memories[0][500 * PAGE] == 500 % 256
        assert received.wait(60)
        assert sent.breaks in (1, 2)  # both may fall on one connection
        assert bytes(received.memories[0]) == expected(image, {})


def test_it_goes_on_here_where_it_is_not_moved(image: Path) -> None:
    """Its tracker has ended with the move: it can be moved again, and what it holds is its own."""
    with userfault.lazy(image, writable=True, track=True, policy=DEMAND) as memory:
        went_on: list[int] = []

        def rule(kind: Kind, _: int) -> bool | None:
            if kind is Kind.SWITCH:
                between.open = False
            return True if between.open else None

        moving = Memories([memory], lambda: b"", lambda: went_on.append(1))
        with Arrival(patience_s=0.5) as arrival, Between(arrival.address, rule) as between:
            with pytest.raises(NotMoved):
                send(moving, between.address, tls=None, still_s=0.3)
            arrival.failed()
        assert went_on == [1]
        memory[3] = 42
        with Arrival() as arrival:
            send(moving, arrival.address, tls=None)
            received = arrival.join()
            assert received.wait(60)
            assert bytes(received.memories[0]) == expected(image, {3: 42})
