"""`userfault model`: at a terminal, as a script, as JSON; and what is wrong, where."""

from __future__ import annotations

import json
import os
import pty
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from cli.commands import command, environment, userfault
from helpers.waiting import wait_until

_CTRL_C, _CTRL_D, _TAB = b"\x03", b"\x04", b"\t"


class _Typist:
    """Someone at a terminal."""

    def __init__(self, process: subprocess.Popen[bytes], terminal: int) -> None:
        self.process = process
        self._terminal = terminal
        self.seen = b""

    def type(self, text: bytes, until: bytes) -> bytes:
        """Type it; what the terminal shows from then on to `until`."""
        begin = len(self.seen)
        os.write(self._terminal, text)
        wait_until(lambda: until in self._more()[begin:])
        return self.seen[begin:]

    def _more(self) -> bytes:
        with suppress(OSError):  # nothing yet, or the other side has gone
            self.seen += os.read(self._terminal, 4096)
        return self.seen


@contextmanager
def _typist(home: Path) -> Iterator[_Typist]:
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        command("model", "--profile", "7.3"),
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env=environment(XDG_CACHE_HOME=str(home), TERM="dumb", COLUMNS="100"),
        start_new_session=True,
        preexec_fn=lambda: os.close(os.open(os.ttyname(0), os.O_RDWR)),  # noqa: PLW1509  # the terminal is its own
    )
    os.close(theirs)
    os.set_blocking(ours, False)
    try:
        yield _Typist(process, ours)
    finally:
        process.kill()
        process.wait()
        os.close(ours)


def test_a_line_that_is_wrong_is_told_of_and_ctrl_c_drops_one(tmp_path: Path) -> None:
    with _typist(tmp_path) as typist:
        typist.type(b"", b"7.3> ")
        shown = typist.type(b"map amon\n", b"7.3> ")
        assert b"    ^^^^" in shown
        assert b"did you mean 'anon'?" in shown
        shown = typist.type(b"map shm" + _CTRL_C, b"7.3> ")
        assert b"new" not in shown
        shown = typist.type(b"map anon\n", b"7.3> ")
        assert b"to anon+8, anon private, rw" in shown
        assert b"shm" not in shown
        typist.type(_CTRL_D, b"\n")
        assert typist.process.wait(30) == 0
    assert (tmp_path / "userfault" / "model.history").read_text().splitlines()[-1] == "map anon"


def test_tab_completes_and_the_lines_of_before_come_back(tmp_path: Path) -> None:
    history = tmp_path / "userfault" / "model.history"
    history.parent.mkdir()
    history.write_text("map shm\n")
    with _typist(tmp_path) as typist:
        typist.type(b"", b"7.3> ")
        typist.type(b"unreg" + _TAB, b"unregister")
        typist.type(_CTRL_C, b"7.3> ")
        shown = typist.type(b"\x10\n", b"7.3> ")  # Ctrl-P
        assert b"to shm+8, shmem, rw" in shown
        typist.type(b"quit\n", b"\n")
        assert typist.process.wait(30) == 0


def test_a_script_ends_at_the_line_that_cannot_be_read(tmp_path: Path) -> None:
    script = tmp_path / "script"
    script.write_text("# first\nmap anon\nopen; register anon mising\nmap shm\n")
    done = userfault("model", "--script", str(script))
    assert done.returncode == 2
    assert f"{script}:3:21: register knows no 'mising'" in done.stderr
    assert "did you mean 'missing'?" in done.stderr
    assert "map shm" not in done.stdout


def test_a_step_that_cannot_be_names_its_place_too(tmp_path: Path) -> None:
    script = tmp_path / "script"
    script.write_text("map anon; open; register anon missing\ntouch anon; 0 read u0\n")
    done = userfault("model", "--script", str(script))
    assert done.returncode == 2
    assert f"{script}:2:13: task 0 sleeps" in done.stderr


def _piped(text: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command("model", *arguments),
        input=text,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_input_that_is_no_terminal_is_a_script() -> None:
    done = _piped("map anon\ntouch anon\nquit\nnothing\n")
    assert done.returncode == 0, done.stderr
    assert "next> touch anon" in done.stdout
    assert "Read(anon+0, 8)" in done.stdout
    assert _piped("nothing\n", "--script", "-").returncode == 2
    assert "<stdin>:1:1: no such verb" in _piped("nothing\n").stderr
    assert _piped("").returncode == 0


def test_json_is_a_header_and_an_object_for_each_step() -> None:
    done = _piped("map anon; open\nregister anon missing\ntouch anon+1\nread u0\n", "--json")
    assert done.returncode == 0, done.stderr
    header, *lines = map(json.loads, done.stdout.splitlines())
    assert header == {"schema": "userfault.model/1", "kernel": "model next"}
    assert [line["line"] for line in lines] == [1, 1, 2, 3, 4]
    assert lines[3]["steps"][0]["step"] == "0 load anon+1"
    assert lines[3]["steps"][0]["calls"][0]["waits_for"] == "fault"
    assert lines[3]["state"]["queues"][0]["change"] == "new"
    assert lines[4]["steps"][0]["calls"][0]["messages"] == ["PAGEFAULT MISSING, a read at anon+1"]


@pytest.mark.parametrize("profile", ["6.19", "", "nextt"])
def test_an_unknown_profile_is_named_with_those_that_there_are(profile: str) -> None:
    done = userfault("model", "--profile", profile)
    assert done.returncode == 2
    assert "6.1, 6.12, 6.17, 6.18, 7.2, 7.3, next" in done.stderr


def test_the_core_can_be_of_another_design() -> None:
    done = _piped(
        "map shm; open; register shm missing; touch shm; copy shm\n", "--design", "merged"
    )
    assert done.returncode == 0, done.stderr
    assert "b'AAAAAAAA'" in done.stdout
    unknown = userfault("model", "--design", "none-such")
    assert unknown.returncode == 2
    assert "none-such" in unknown.stderr


def test_a_script_that_is_not_there_fails(tmp_path: Path) -> None:
    done = userfault("model", "--script", str(tmp_path / "none"))
    assert done.returncode == 1
    assert "No such file" in done.stderr


def test_help_names_every_verb_and_what_a_flag_is_called() -> None:
    done = _piped("help\nhelp register\nareas\nprogram\nshow\nhelp nothing\n")
    assert "register [UFFD] ADDRESS [LENGTH] FLAGS" in done.stdout
    assert "missing, wp, minor, rwp" in done.stdout
    assert "guest_memfd, 4 pages of 4 KiB, file g" in done.stdout
    assert done.returncode == 2
    assert "<stdin>:6:6: no such verb: 'nothing'" in done.stderr
