"""Ctrl-C reaches who waits for a page, and the program's own handling of signals stays its own."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import subprocess
import sys
import termios
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from helpers import child
from helpers.skips import need_features
from userfault.kernel.modes import Feature

SCENES = "pager_live.clients.interrupt_scenes:"


def _take_terminal() -> None:
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


class Terminal:
    """A client that runs in the foreground of a terminal of its own."""

    def __init__(self, function: str, *arguments: str) -> None:
        self.said = b""
        self._master, slave = os.openpty()
        os.set_blocking(self._master, False)
        self.client = subprocess.Popen(
            [sys.executable, "-c", child._MAIN, function, json.dumps(arguments)],
            stdin=slave, stdout=slave, stderr=slave, start_new_session=True,
            preexec_fn=_take_terminal,  # noqa: PLW1509  # this process has one thread
            env={**os.environ, "PYTHONPATH": os.pathsep.join(
                [str(child._TESTS), str(child._TESTS.parent / "src")]
            )},
        )  # fmt: skip
        os.close(slave)

    def press_ctrl_c(self) -> None:
        os.write(self._master, b"\x03")

    def read(self) -> bytes:
        """All that was said until now."""
        try:
            while data := os.read(self._master, 4096):
                self.said += data
        except OSError:  # nothing now, or nobody is left
            pass
        return self.said

    def wait_for(self, condition: Callable[[], bool], timeout_s: float) -> bool:
        deadline = time.monotonic() + timeout_s
        while not condition():
            if time.monotonic() > deadline:
                return False
            time.sleep(0.02)
        return True

    def until(self, condition: Callable[[], bool]) -> None:
        assert self.wait_for(condition, 60), self.read().decode()

    def close(self) -> None:
        self.client.kill()
        self.client.wait()
        os.close(self._master)


def in_a_fault(pid: int) -> bool:
    """Whether the main thread waits for a page."""
    return "userfault" in Path(f"/proc/{pid}/task/{pid}/wchan").read_text()


def test_a_second_ctrl_c_in_a_terminal_ends_who_waits_and_tells_the_line(tmp_path: Path) -> None:
    need_features(Feature.POISON)
    gate, report = tmp_path / "gate", tmp_path / "report"
    terminal = Terminal(SCENES + "sums_a_slow_array", str(gate), str(report), "poison")
    try:
        terminal.until(report.exists)
        terminal.until(lambda: in_a_fault(terminal.client.pid))
        presses = 0
        while terminal.client.poll() is None:  # one that comes with the fault itself is not seen
            assert presses < 4, terminal.read().decode()
            terminal.press_ctrl_c()
            presses += 1
            terminal.wait_for(lambda: terminal.client.poll() is not None, 3)
        assert presses > 1
        assert terminal.client.returncode == -signal.SIGBUS
        # The last that it said may still be on its way through the terminal.
        terminal.wait_for(lambda: b"in sums_a_slow_array" in terminal.read(), 10)
        said = terminal.said
        assert b"once more ends the wait" in said
        assert b"interrupted twice" in said
        assert b"in sums_a_slow_array" in said
    finally:
        gate.touch()
        terminal.close()


def test_by_policy_ctrl_c_waits_for_the_page(tmp_path: Path) -> None:
    gate, report = tmp_path / "gate", tmp_path / "report"
    terminal = Terminal(SCENES + "sums_a_slow_array", str(gate), str(report), "wait")
    try:
        terminal.until(report.exists)
        terminal.until(lambda: in_a_fault(terminal.client.pid))
        for _ in range(3):
            terminal.press_ctrl_c()
            time.sleep(0.3)  # as fast as they are pressed
        gate.touch()
        terminal.until(lambda: terminal.client.poll() is not None)
        assert terminal.client.returncode == 0
        assert b"KeyboardInterrupt" in terminal.read()
    finally:
        terminal.close()


@pytest.mark.parametrize(
    ("scene", "found"),
    [
        ("handles_them_itself", ["read b'\\x02'", "handler", "still ours True"]),
        ("in_a_loop", ["heard"]),
        ("interrupted_before", {"caught": 3, "page": 1}),
        ("child_is_interrupted", {"page": 1, "child": 4}),
    ],
)
def test_handlers_and_wakeup_descriptors_of_the_program_stay_its_own(
    tmp_path: Path, scene: str, found: object
) -> None:
    told = child.run(SCENES + scene, str(tmp_path / "gate"))
    assert (sorted(told) if scene == "handles_them_itself" else told) == (
        sorted(found) if isinstance(found, list) else found
    )
