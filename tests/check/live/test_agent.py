"""Compiling the agent."""

from __future__ import annotations

import socket
import struct
import subprocess
from pathlib import Path

import pytest

from userfault.check.live.agent import build
from userfault.check.live.agent.build import SOURCE, NoAgent, agent_path

pytestmark = pytest.mark.usefixtures("agent")


@pytest.fixture
def cache(agent: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    del agent  # it was tried in the usual directory before
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "userfault"


def test_it_is_compiled_once(cache: Path) -> None:
    first = agent_path()
    written = first.stat().st_mtime_ns

    assert agent_path() == first
    assert first.stat().st_mtime_ns == written
    assert [path.name for path in cache.iterdir()] == [first.name]


def test_it_needs_no_library() -> None:
    binary = agent_path().read_bytes()
    table, count = struct.unpack_from("<Q", binary, 32)[0], struct.unpack_from("<H", binary, 56)[0]
    kinds = {struct.unpack_from("<I", binary, table + 56 * place)[0] for place in range(count)}
    dynamic, interpreter = 2, 3  # PT_DYNAMIC, PT_INTERP of elf(5)

    assert binary[:4] == b"\x7fELF"
    assert not kinds & {dynamic, interpreter}


def test_another_source_is_another_file(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = agent_path()
    changed = cache.parent / "agent.c"
    changed.write_bytes(SOURCE.read_bytes() + b"\n/* changed */\n")
    monkeypatch.setattr(build, "SOURCE", changed)

    assert agent_path() != first


@pytest.mark.usefixtures("cache")
def test_without_a_compiler_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setenv("PATH", "/nonexistent")

    with pytest.raises(NoAgent, match="cannot run here: no C compiler"):
        agent_path()


@pytest.mark.parametrize("compiler", ["false", "/nonexistent/cc"])
def test_a_compiler_that_fails_leaves_nothing_behind(
    cache: Path, monkeypatch: pytest.MonkeyPatch, compiler: str
) -> None:
    monkeypatch.setenv("CC", compiler)

    with pytest.raises(NoAgent, match="the C compiler failed"):
        agent_path()
    assert list(cache.iterdir()) == []


def test_a_directory_that_others_can_write_is_refused(cache: Path) -> None:
    cache.mkdir()
    cache.chmod(0o777)

    with pytest.raises(NoAgent, match="not safe"):
        agent_path()


def test_it_ends_when_nobody_talks_to_it() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        process = subprocess.Popen([agent_path(), str(theirs.fileno())], pass_fds=[theirs.fileno()])
        theirs.close()
        ours.recv(1)  # it has said hello
        ours.shutdown(socket.SHUT_WR)

        assert process.wait(10) == 0


def test_it_stays_small() -> None:
    assert len(SOURCE.read_text().splitlines()) < 600
