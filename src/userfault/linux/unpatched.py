"""What is taken of the standard library as it is, whatever gevent has put in its place.

`gevent.monkey` replaces locks, threads, sockets and poll by its own, which let other greenlets run
and make descriptors non-blocking (also for a process that inherits them).  Ours wait for a
millisecond, in places where nothing else may run.
"""

from __future__ import annotations

import _socket
import importlib
import importlib.util
import socket
import sys
from types import ModuleType
from typing import Any


def original(module: str, name: str) -> Any:
    """`name` of `module` as Python has it."""
    monkey = sys.modules.get("gevent.monkey")
    if monkey is None:
        return getattr(importlib.import_module(module), name)
    return monkey.get_original(module, name)


def as_written(module: str) -> ModuleType:
    """A module of the standard library; loaded anew where gevent changed what its functions use."""
    if "gevent.monkey" not in sys.modules:
        return importlib.import_module(module)
    spec = importlib.util.find_spec(module)
    assert spec is not None
    assert spec.loader is not None
    anew = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(anew)
    return anew


def packet_sockets() -> tuple[socket.socket, socket.socket]:
    """Both ends of a connection of packets, which wait for as long as it takes.

    `socket.setdefaulttimeout` is for the program's own, and would make them non-blocking, also for
    a process that inherits one.  Raises OSError.
    """
    made = _socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    kind = original("socket", "socket")
    # All is said that Python would ask the kernel for, which may refuse to answer.
    known = socket.AF_UNIX, socket.SOCK_SEQPACKET, 0
    ours, theirs = (kind(*known, fileno=each.detach()) for each in made)
    try:
        for each in (ours, theirs):
            each.settimeout(None)
    except OSError:  # whoever keeps the error would keep them open
        ours.close()
        theirs.close()
        raise
    return ours, theirs
