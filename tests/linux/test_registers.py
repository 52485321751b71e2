"""Registers of a stopped process are read, and none of its threads runs meanwhile."""

from __future__ import annotations

import os
import struct
import subprocess
import sys
import time
from pathlib import Path

import pytest

from cli.commands import environment
from helpers.skips import absent
from linux.test_stopping import counting, until
from userfault.linux import maps
from userfault.linux.registers import registers
from userfault.linux.stopping import Stopped

__all__ = ["counting"]

# rip and rsp of struct user_regs_struct (sys/user.h)
_RIP, _RSP = 16, 19


def x86(general: bytes) -> tuple[int, ...]:
    """The 27 registers."""
    if os.uname().machine != "x86_64":
        absent("knows the registers of x86-64 alone")
    return struct.unpack("<27Q", general)


def test_each_thread_tells_where_it_is_and_none_runs(counting: tuple[int, Path]) -> None:
    pid, path = counting
    stopped = Stopped(pid)
    seen = path.read_bytes()
    found = registers(pid)
    stopped.settle()
    assert list(found) == sorted(map(int, os.listdir(f"/proc/{pid}/task")))
    assert next(iter(found)) == pid
    mapped = maps.mappings(pid)
    for general in found.values():
        values = x86(general)
        for register, right in ((_RIP, "x"), (_RSP, "w")):
            inside = [each for each in mapped if each.start <= values[register] < each.end]
            assert [each for each in inside if right in each.permissions]
    assert registers(pid) == found
    stopped.settle()
    time.sleep(0.05)
    assert path.read_bytes() == seen
    stopped.resume()
    until(lambda: path.read_bytes() != seen)


def test_where_a_debugger_holds_it_that_is_an_error(counting: tuple[int, Path]) -> None:
    pid, _ = counting
    code = (
        "import sys, time\n"
        "from userfault.linux import registers\n"
        "registers._call(registers._SEIZE, int(sys.argv[1]))\n"
        "print(flush=True)\n"
        "time.sleep(60)\n"
    )
    debugger = subprocess.Popen(
        [sys.executable, "-c", code, str(pid)], stdout=subprocess.PIPE, env=environment()
    )
    assert debugger.stdout is not None
    try:
        assert debugger.stdout.readline() == b"\n"
        with pytest.raises(PermissionError):
            registers(pid)
    finally:
        debugger.kill()
        debugger.communicate()
    assert registers(pid)  # by INTERRUPT, of one that runs


def test_a_process_that_is_gone_is_an_error() -> None:
    process = subprocess.Popen(["true"])
    process.wait()
    with pytest.raises(FileNotFoundError):
        registers(process.pid)
