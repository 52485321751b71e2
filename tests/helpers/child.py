"""Run one function in a process of its own, and have back what it returns (as JSON).

For what a test cannot do to its own process: change user, run out of descriptors, install a
seccomp filter, fork while a userfaultfd waits for the event, or die.  The function is named as
`module:function`; descriptors can be handed down.
"""

from __future__ import annotations

import codecs
import ctypes
import importlib
import json
import os
import struct
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

NOBODY = 65534
_MAIN = "from helpers.child import main; main()"
_TESTS = Path(__file__).resolve().parent.parent


def start(function: str, *arguments: Any, pass_fds: Sequence[int] = ()) -> subprocess.Popen[str]:
    """Start it; the caller waits with `finish`."""
    path = os.pathsep.join([str(_TESTS), str(_TESTS.parent / "src")])
    return subprocess.Popen(
        [sys.executable, "-c", _MAIN, function, json.dumps(arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        pass_fds=pass_fds,
        env={**os.environ, "PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1"},
    )


def finish(child: subprocess.Popen[str], timeout_s: float = 60) -> Any:
    """What the function returned; AssertionError with its traceback where it raised."""
    try:
        out, err = child.communicate(timeout=timeout_s)
    except subprocess.TimeoutExpired:
        child.kill()
        out, err = child.communicate()
        err += "\n(killed: it took too long)"
    assert child.returncode == 0, f"the child ended with {child.returncode}:\n{err}"
    return json.loads(out.splitlines()[-1])


def run(function: str, *arguments: Any, pass_fds: Sequence[int] = ()) -> Any:
    """Start it and wait for what it returns."""
    return finish(start(function, *arguments, pass_fds=pass_fds))


def main() -> None:
    """In the child."""
    module, _, name = sys.argv[1].partition(":")
    function = getattr(importlib.import_module(module), name)
    print(json.dumps(function(*json.loads(sys.argv[2]))), flush=True)


def become_nobody() -> None:
    """Drop root for good.  Import everything first: nobody may not be able to read the files."""
    codecs.lookup("ascii")  # Python reads its codecs on first use
    os.setgroups([])
    os.setresgid(NOBODY, NOBODY, NOBODY)
    os.setresuid(NOBODY, NOBODY, NOBODY)


_PR_SET_NO_NEW_PRIVS, _PR_SET_SECCOMP, _SECCOMP_MODE_FILTER = 38, 22, 2
_LOAD, _JUMP_EQUAL, _RETURN = 0x20, 0x15, 0x06  # BPF: ld [k], jeq #k, ret #k
_ALLOW, _ERRNO = 0x7FFF0000, 0x00050000


def forbid_system_call(number: int, errno: int) -> None:
    """Install a seccomp filter as container runtimes do: from now on `number` fails."""
    code = [
        (_LOAD, 0, 0, 0),  # the number of the call
        (_JUMP_EQUAL, 0, 1, number),
        (_RETURN, 0, 0, _ERRNO | errno),
        (_RETURN, 0, 0, _ALLOW),
    ]
    program = b"".join(struct.pack("=HBBI", *instruction) for instruction in code)
    buffer = ctypes.create_string_buffer(program, len(program))
    described = struct.pack("@HP", len(code), ctypes.addressof(buffer))
    libc = ctypes.CDLL(None, use_errno=True)
    pointer = ctypes.create_string_buffer(described, len(described))
    zero, one = ctypes.c_ulong(0), ctypes.c_ulong(1)
    if libc.prctl(_PR_SET_NO_NEW_PRIVS, one, zero, zero, zero):
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_NO_NEW_PRIVS)")
    mode = ctypes.c_ulong(_SECCOMP_MODE_FILTER)
    if libc.prctl(_PR_SET_SECCOMP, mode, pointer, zero, zero):
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_SECCOMP)")
