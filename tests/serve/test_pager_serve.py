"""`Pager.serve`: a program hands over descriptors and regions that it has from somewhere."""

from __future__ import annotations

import ctypes
import json
import mmap
import os
import signal
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import userfault
from helpers.waiting import wait_until
from serve.daemons import Vm, started
from userfault.kernel.modes import Mode
from userfault.linux.libc import Pinned
from userfault.linux.uffd import LiveUserfaultfd
from userfault.uapi.mman import MAP_ANONYMOUS

PAGE = mmap.PAGESIZE


@pytest.fixture(scope="module")
def pager() -> Iterator[userfault.Pager]:
    with userfault.Pager() as made:
        yield made


class Handed:
    """What a client of `vm.c` has handed over to this process."""

    def __init__(self, listener: socket.socket) -> None:
        self.channel, _ = listener.accept()
        data, fds, _, _ = socket.recv_fds(self.channel, 1 << 16, 1)
        self.uffd = fds[0]
        self.regions = [
            (each["base_host_virt_addr"], each["size"], each["offset"]) for each in json.loads(data)
        ]

    def close(self) -> None:
        self.channel.close()
        os.close(self.uffd)


@pytest.fixture
def client(tmp_path: Path, vm: Path, image: Path) -> Iterator[tuple[Vm, Handed]]:
    """One that has sent its message, and what it has sent."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "own"))
        listener.listen()
        with started(vm, tmp_path / "own", image, regions=3, stop="sent", drop=20) as one:
            handed = Handed(listener)
            assert one.reads() == "sent"
            yield one, handed
            handed.close()


def test_another_processes_memory_is_served(
    pager: userfault.Pager, image: Path, client: tuple[Vm, Handed]
) -> None:
    one, handed = client
    with pager.serve(handed.uffd, handed.regions, image, process=one.pid) as session:
        one.go_on()
        assert one.reads() == "right 512"
        wait_until(lambda: session.settled() == session.pages == 512)


def test_its_pager_may_be_killed_and_replaced(
    pager: userfault.Pager, image: Path, client: tuple[Vm, Handed]
) -> None:
    one, handed = client
    with pager.serve(handed.uffd, handed.regions, image, process=one.pid) as session:
        before = pager.takeovers
        os.kill(pager.processes()["worker"], signal.SIGKILL)
        wait_until(lambda: pager.takeovers > before)
        pager.replace()
        session.complete()
        assert session.wait(60)
        one.go_on()
        assert one.reads() == "right 512"


def test_what_a_closed_session_has_not_filled_ends_its_process(
    pager: userfault.Pager, image: Path, client: tuple[Vm, Handed]
) -> None:
    one, handed = client
    pager.serve(handed.uffd, handed.regions, image, process=one.pid).close()
    one.go_on()
    assert one.process.wait(60) == -signal.SIGBUS


def test_a_process_whose_pager_dies_as_a_whole_is_ended(
    image: Path, client: tuple[Vm, Handed]
) -> None:
    one, handed = client
    with userfault.Pager() as mine:
        session = mine.serve(handed.uffd, handed.regions, image, process=one.pid)
        pids = mine.processes().values()
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)  # so that none goes on for another
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
        assert one.process.wait(60) == -signal.SIGKILL
        session.close()


class Own:
    """Registered memory of this process, in two pieces."""

    def __init__(self) -> None:
        self.uffd = LiveUserfaultfd.open()
        self.held = [mmap.mmap(-1, 8 * PAGE, flags=mmap.MAP_PRIVATE | MAP_ANONYMOUS) for _ in "ab"]
        self.regions = []
        for number, each in enumerate(self.held):
            with Pinned(each) as pinned:
                self.regions.append((pinned.address, 8 * PAGE, number * 8 * PAGE))
            self.uffd.register(self.regions[-1][0], 8 * PAGE, Mode.MISSING)

    def byte(self, page: int) -> int:
        """The first one of it, read where the interpreter does not stand still meanwhile."""
        address, _, offset = self.regions[page // 8]
        into = ctypes.create_string_buffer(1)
        ctypes.memmove(into, address + page * PAGE - offset, 1)
        return into.raw[0]


def test_memory_of_this_process_is_served_where_it_lies(pager: userfault.Pager) -> None:
    own = Own()
    source = b"".join(bytes([page]) * PAGE for page in range(16))
    with pager.serve(own.uffd, own.regions, source) as session:
        assert [own.byte(page) for page in (9, 3, 15, 0)] == [9, 3, 15, 0]
        wait_until(lambda: session.settled() >= 4)
        session.complete()
        assert session.wait(60)
    own.uffd.close()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"regions": []}, "it names no region"),
        ({"regions": [(4096, 16 * PAGE, 0)]}, "is not registered with a userfaultfd"),
        ({"regions": [(1, 16 * PAGE, 0)]}, "it is no whole pages"),
        ({"source": b"much too short"}, "the source has 14"),
        ({"source": "os:getcwd", "length": PAGE}, "a function as source"),
        ({"uffd": 0}, "whose descriptor is no userfaultfd"),
        ({"page_size": 2 << 20}, "it is no whole pages"),
    ],
)
def test_what_cannot_be_served_is_refused_at_once(
    pager: userfault.Pager, change: dict[str, Any], said: str
) -> None:
    own = Own()
    arguments: dict[str, Any] = {
        "uffd": own.uffd,
        "regions": own.regions,
        "source": bytes(16 * PAGE),
        **change,
    }
    with pytest.raises(userfault.UsageError, match=said):
        pager.serve(**arguments)
    own.uffd.close()
