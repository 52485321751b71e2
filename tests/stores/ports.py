"""Loopback ports and children of this test: found free, waited for, ended."""

from __future__ import annotations

import socket
import subprocess
import time


def free_ports(count: int) -> list[int]:
    """TCP ports of 127.0.0.1 that nobody listens on."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]
    finally:
        for one in sockets:
            one.close()


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
