"""Whatever crosses a socket is bounded, and answered: long texts, large arguments, no process."""

from __future__ import annotations

import os
import socket
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import userfault
from helpers import child
from helpers.pages import PAGE, numbers
from pager_live import functions
from userfault import Policy, SourceError, lazy
from userfault.kernel.errors import PagerError
from userfault.kernel.names import shown
from userfault.linux import rights
from userfault.linux.pidfd import close_all
from userfault.pager.drivers.processes.texts import clipped
from userfault.pager.drivers.wire import packets

DEMAND = Policy(background=False, retries=0)


def fails(mapped: userfault.LazyMemory, page: int = 0) -> bool:
    """Whether a system call that reads the page is refused, as it is where the page is poisoned."""
    with tempfile.TemporaryFile() as file, memoryview(mapped) as view:
        try:
            os.write(file.fileno(), view[page * PAGE : page * PAGE + 1])
        except OSError:
            return True
        return False


# --- packets --------------------------------------------------------------------------------------


@pytest.fixture
def ends() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        yield ours, theirs


@pytest.mark.parametrize("size", [1, packets.SMALL, packets.SMALL + 1, 1 << 20])
@pytest.mark.parametrize("room", [4608, 1 << 18])
def test_a_message_of_any_size_arrives_whole_with_its_descriptors(
    ends: tuple[socket.socket, socket.socket], size: int, room: int
) -> None:
    ours, theirs = ends
    ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, room // 2)  # the kernel doubles it
    data = os.urandom(size)
    packets.send(ours, 7, data, [0, 1])
    found = packets.receive(theirs)
    assert (found.serial, found.data, found.fault, len(found.fds)) == (7, data, None, 2)
    close_all(found.fds)


def test_a_message_beyond_the_most_is_refused_by_its_sender(
    ends: tuple[socket.socket, socket.socket],
) -> None:
    with pytest.raises(PagerError, match="too large"):
        packets.send(ends[0], 1, bytes(packets.MAX_MESSAGE + 1))


@given(st.text(max_size=60), st.integers(8, 40))
def test_a_text_is_cut_between_characters_and_can_be_sent(text: str, most: int) -> None:
    cut = clipped(text, most)
    data = cut.encode()
    assert len(data) <= most
    assert cut == text or (cut.endswith("…") and len(text.encode()) > most)
    assert shown(cut).isprintable()


def test_a_text_that_is_no_unicode_can_be_sent() -> None:
    assert clipped(os.fsdecode(b"name \xff")) == "name \\udcff"
    assert shown("a\x1b[31m\nb\u202ec") == "a\\x1b[31m\\nb\\u202ec"


# --- what functions do ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("character", "count", "before"),
    [("é", 6000, ""), ("é", 6000, "a"), ("\udcff", 3000, ""), ("x", 3_000_000, "")],
    ids=["even", "odd", "surrogates", "long"],
)
def test_the_text_of_an_exception_may_be_of_any_kind(
    character: str, count: int, before: str
) -> None:
    text = before + character * count
    source = userfault.function(functions.wordy, PAGE, text)
    with lazy(source, policy=DEMAND) as mapped:
        assert fails(mapped)
        with pytest.raises(SourceError, match="1 page given up") as caught:
            mapped.check()
        assert "ValueError" in caught.value.cause
        assert mapped.statistics().takeovers == 0


def test_an_exception_without_a_text_is_told_by_its_class() -> None:
    with lazy(functions.mute, length=PAGE, policy=DEMAND) as mapped:
        assert fails(mapped)
        with pytest.raises(SourceError) as caught:
            mapped.check()
    assert "Mute: (its text cannot be had)" in caught.value.cause


def test_many_failures_with_long_causes_are_answered() -> None:
    count = 80
    source = userfault.function(functions.wordy, count * PAGE, "long " * 1000)
    with lazy(source, policy=DEMAND) as mapped:
        assert all(fails(mapped, page) for page in range(count))
        with pytest.raises(SourceError, match=f"{count} pages given up"):
            mapped.check()
        assert mapped.statistics().failed == count


@pytest.mark.parametrize("size", [131_000, 5_000_000])
def test_arguments_of_a_function_may_be_large(size: int) -> None:
    source = userfault.function(functions.sized, 4 * PAGE, bytes(size), more=bytes(10))
    with userfault.Pager() as pager, lazy(source, policy=DEMAND, pager=pager) as mapped:
        assert numbers(mapped[:PAGE]) == [1 + size + 10]
        pager.replace()  # other processes, which are handed the arguments too
        assert numbers(mapped[PAGE:]) == [2 + size + 10, 3 + size + 10, 4 + size + 10]


def test_a_module_path_may_be_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        sys, "path", [*sys.path, *(f"/nowhere/{n}/{'x' * 190}" for n in range(900))]
    )
    with lazy(functions.numbered, length=2 * PAGE, policy=DEMAND) as mapped:
        assert numbers(mapped[:]) == [1, 2]


# --- no process -----------------------------------------------------------------------------------


def without_interpreter(folder: str) -> list[str]:
    """The interpreter that the pager was started with goes away; other mappings are served on."""
    program = Path(folder) / "python"
    program.symlink_to(sys.executable)
    sys.executable = str(program)
    told = []
    with userfault.Pager() as pager:
        policy = Policy(background=False, retries=1)
        sound = lazy(userfault.zero(4 * PAGE), pager=pager, policy=policy)
        assert sound[0] == 0
        # Of a function that it knows the pager starts no process before it is called.
        lazy(functions.numbered, length=PAGE, pager=pager, policy=policy).close()
        mapped = lazy(functions.numbered, length=2 * PAGE, pager=pager, policy=policy)
        program.unlink()
        assert fails(mapped)
        with pytest.raises(PagerError, match="cannot start"):
            lazy(functions.broken, length=PAGE, pager=pager)
        try:
            mapped.check()
        except SourceError as error:
            told = [error.cause]
        told.append(str(pager.takeovers))
        assert sound[PAGE] == 0
        mapped.close()
        sound.close()
    return told


def test_no_process_for_a_function_costs_its_pages_and_no_more(tmp_path: Path) -> None:
    cause, takeovers = child.run("pager_live.wire.test_answers:without_interpreter", str(tmp_path))
    assert "no process for the function" in cause
    assert os.strerror(2) in cause
    assert takeovers == "0"


def interrupted_often() -> int:
    """Requests whose replies nobody takes, as after many a Ctrl-C."""
    from userfault.pager.drivers.wire import messages

    source = functions.numbered
    with userfault.Pager() as pager, lazy(source, length=2 * PAGE, pager=pager) as mapped:
        channel, sender = pager._family.channel, rights.credentials(0, 0)
        for serial in range(5000, 8000):
            messages.send(channel, serial, messages.Ask(mapped._parts.number), sender=sender)
        return numbers(mapped[:])[1] + mapped.statistics().pages


def test_replies_that_nobody_takes_do_not_stop_the_pager() -> None:
    assert child.run("pager_live.wire.test_answers:interrupted_often") == 4
