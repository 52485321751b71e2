"""Loopback ports and children of this test: found free, waited for, ended."""

from __future__ import annotations

import contextlib
import os
import pathlib
import random
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

Made = TypeVar("Made")


# Below the ports that Linux gives to outgoing connections (ip_local_port_range): no connection of
# anybody takes one between its choice and its use.
_LOWEST, _HIGHEST = 15_000, 32_000
_STARTS = 4


class NotStartedError(Exception):
    """A server ended, or did not listen in time; the text is its log."""


def free_ports(count: int) -> list[int]:
    """TCP ports of 127.0.0.1 that nobody listens on."""
    found: list[int] = []
    while len(found) < count:
        port = random.randrange(_LOWEST, _HIGHEST)
        with socket.socket() as one, contextlib.suppress(OSError):
            one.bind(("127.0.0.1", port))
            if port not in found:
                found.append(port)
    return found


@contextlib.contextmanager
def started(
    folder: pathlib.Path, start: Callable[[pathlib.Path], contextlib.AbstractContextManager[Made]]
) -> Iterator[Made]:
    """What `start` makes in a folder of its own; once more if a port was taken meanwhile."""
    with contextlib.ExitStack() as stack:
        for number in range(_STARTS):
            place = folder / f"start{number}"
            place.mkdir()
            try:
                made = stack.enter_context(start(place))
            except NotStartedError:
                if number == _STARTS - 1:
                    raise
            else:
                break
        yield made


def launch(
    command: Sequence[str | os.PathLike[str]], log: pathlib.Path, env: dict[str, str] | None = None
) -> subprocess.Popen[bytes]:
    """A server as a child that ends with this process, even when that is killed."""
    with open(log, "wb") as output:
        return subprocess.Popen(
            ["setpriv", "--pdeathsig", "KILL", *command],
            stdout=output,
            stderr=output,
            stdin=subprocess.DEVNULL,
            env=env,
        )


def listens(port: int, server: subprocess.Popen[bytes], seconds: float = 30) -> bool:
    """Whether the child accepts connections within `seconds`; False where it has ended."""
    end = time.monotonic() + seconds
    while time.monotonic() < end and server.poll() is None:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            time.sleep(0.05)
        else:
            return True
    return False


def stop(server: subprocess.Popen[bytes]) -> None:
    """End a child at once: what it holds is the test's and goes with it."""
    server.kill()
    server.wait()
