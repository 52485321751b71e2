"""What running pagers serve, seen from outside."""

from __future__ import annotations

import ctypes
import json
import os
import signal
import subprocess
import threading
from pathlib import Path

import pytest

from cli.commands import command, environment
from cli.commands import userfault as run
from helpers.waiting import wait_until
from userfault import LazyMemory, Policy, function, lazy
from userfault.pager.drivers.record import viewing
from userfault.pager.drivers.record.viewing import Family, Served

PAGE = 4096
PAGES = 64
DEMAND = Policy(background=False, window_bytes=1)


def _mine() -> list[tuple[Family, Served]]:
    """Those that serve this process, among all that run here."""
    found = viewing.families()
    return [(each, client) for each in found for client in each.clients if _is_us(client)]


def _is_us(client: Served) -> bool:
    return client.process == os.getpid()


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "image"
    path.write_bytes(b"x" * PAGE * PAGES)
    return path


def test_pages_are_counted_by_state_while_the_pager_serves(image: Path) -> None:
    with lazy(str(image), policy=DEMAND) as memory:
        for page in (1, 5, 9):
            assert memory[page * PAGE] == ord("x")
        wait_until(lambda: _counts() == {"missing": PAGES - 3, "present": 3})
        ((family, client),) = _mine()
        (mapping,) = client.mappings
        assert (mapping.pages, mapping.page_size, mapping.source) == (PAGES, PAGE, "file")
        assert (mapping.filled, mapping.waiting, mapping.failed) == (3, 0, 0)
        assert all(Path(f"/proc/{pid}").exists() for pid in family.processes.values())
    wait_until(lambda: not _mine())


def _counts() -> dict[str, int]:
    return {name: count for _, each in _mine() for name, count in each.mappings[0].states.items()}


def test_a_thread_that_waits_for_its_page_is_counted() -> None:
    slow = function("pager_live.functions:slow", PAGE, seconds=5)
    with lazy(slow, policy=DEMAND) as memory:
        reader = threading.Thread(target=_touch, args=(memory,))
        reader.start()
        wait_until(lambda: sum(each.mappings[0].waiting for _, each in _mine()) == 1)
        reader.join()
        wait_until(lambda: sum(each.mappings[0].waiting for _, each in _mine()) == 0)


def _touch(memory: LazyMemory) -> None:
    ctypes.memmove(ctypes.create_string_buffer(1), memory.address, 1)  # lets go of the GIL


def test_a_look_changes_nothing_of_what_it_looks_at(image: Path) -> None:
    with lazy(str(image), policy=DEMAND) as memory:
        for page in range(PAGES):
            assert len(_mine()) == 1
            assert memory[page * PAGE] == ord("x")
        ((family, _),) = _mine()
        assert family.takeovers == 0


def test_a_worker_that_was_killed_shows_as_a_takeover(image: Path) -> None:
    with lazy(str(image), policy=DEMAND) as memory:
        ((family, _),) = _mine()
        os.kill(family.processes["worker"], signal.SIGKILL)
        assert memory[0] == ord("x")
        wait_until(lambda: [each.takeovers for each, _ in _mine()] == [1])


def test_the_command_prints_a_table_or_json(image: Path) -> None:
    with lazy(str(image), policy=DEMAND) as memory:
        assert memory[0] == ord("x")
        table = run("top", "--once", columns=120)
        assert table.returncode == 0, table.stderr
        assert [line for line in table.stdout.splitlines() if f" {os.getpid()} " in line]
        told = json.loads(run("top", "--json").stdout)
        assert told["schema"] == "userfault.top/1"
        clients = [client for each in told["pagers"] for client in each["clients"]]
        (mine,) = [client for client in clients if client["process"] == os.getpid()]
        assert mine["mappings"][0]["pages"] == PAGES


def test_it_goes_on_until_ctrl_c(image: Path) -> None:
    with lazy(str(image), policy=DEMAND):
        watching = subprocess.Popen(
            command("top", "--json", "--interval", "0.1"),
            env=environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert watching.stdout is not None
        for _ in range(2):
            assert json.loads(watching.stdout.readline())["schema"] == "userfault.top/1"
        watching.send_signal(signal.SIGINT)
        watching.communicate(timeout=60)
        assert watching.returncode == 130
