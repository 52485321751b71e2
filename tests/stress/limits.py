"""Sweeps of limits (getrlimit(2), cgroups(7)), from too small for anything to enough.

At each value a client maps a file, reads it, has its pager's worker killed, and reads on.  What it
was told, or that it worked, is judged by `narrow`.
"""

from __future__ import annotations

import os
import resource
import signal
import tempfile
from collections.abc import Iterable
from pathlib import Path

import msgspec

import userfault
from helpers import cgroup
from helpers.family import member
from stress import narrow
from stress.narrow import Client, Went
from userfault import Policy

_MIB = 1 << 20


class Sweep(msgspec.Struct, frozen=True):
    """One limit.  `few`: its values for CI.  `signals`: by which the kernel may end the client.

    `noisy`: Python itself says on standard error that it has no thread for what is let go of.
    """

    values: tuple[int, ...]
    few: tuple[int, ...]
    rlimit: int = -1
    controller: str = ""
    as_user: bool = False
    signals: tuple[int, ...] = ()
    noisy: bool = False


SWEEPS = {
    "descriptors": Sweep(
        tuple(range(20, 201)), (20, 25, 30, 33, 34, 35, 36, 38, 42, 60), resource.RLIMIT_NOFILE
    ),
    "address space": Sweep(
        tuple(range(20 * _MIB, 300 * _MIB, 2 * _MIB)),
        tuple(mib * _MIB for mib in (20, 60, 100, 140, 300)),
        resource.RLIMIT_AS,
        noisy=True,
    ),
    "file size": Sweep(
        tuple(1 << shift for shift in range(9, 25)),
        (512, 1 << 15, 1 << 16, 1 << 17, 1 << 22),
        resource.RLIMIT_FSIZE,
    ),
    "processes": Sweep(tuple(range(10)), (0, 1, 2, 3, 9), resource.RLIMIT_NPROC, as_user=True),
    "pids": Sweep(tuple(range(1, 10)), (1, 2, 3, 4, 9), controller="pids"),
    # The kernel kills whom it likes when there is no more: the client too.
    "memory": Sweep(
        tuple(range(_MIB, 80 * _MIB, _MIB)),
        tuple(mib * _MIB for mib in (2, 6, 12, 20, 80)),
        controller="memory",
        signals=(signal.SIGKILL, signal.SIGBUS),
    ),
}


def possible(name: str) -> bool:
    """Whether this limit can be set here."""
    found = SWEEPS[name]
    return (not found.controller or cgroup.possible(found.controller)) and (
        not found.as_user or all(went.how == "worked" for _, went in _swept(found, [1000]))
    )


def sweep(name: str) -> Iterable[tuple[int, Went]]:
    """Run a client at each value: how it went."""
    return _swept(SWEEPS[name], SWEEPS[name].values)


def few(name: str) -> list[tuple[int, str, str]] | None:
    """For CI, in a process of its own: value, how it went, what was told; None: not possible."""
    if not possible(name):
        return None
    went = _swept(SWEEPS[name], SWEEPS[name].few)
    return [(value, how.how, how.text) for value, how in went]


def _swept(limit: Sweep, values: Iterable[int]) -> Iterable[tuple[int, Went]]:
    with tempfile.TemporaryDirectory(prefix="userfault-limits-") as directory:
        path = Path(directory, "source")
        narrow.write_source(path)
        Path(directory).chmod(0o755)
        _served(path)  # what is loaded late is loaded now, without a limit
        for value in values:
            yield value, _run(limit, value, path)


def _run(limit: Sweep, value: int, path: Path) -> Went:
    if not limit.controller:
        client = Client(lambda: _limited(limit, value, path))
        return client.went(limit.signals, noisy=limit.noisy)
    with cgroup.limited(limit.controller, value) as procs:
        return Client(lambda: _confined(procs, path)).went(limit.signals)


def _confined(procs: Path, path: Path) -> None:
    procs.write_text(str(os.getpid()))
    _served(path)


def _limited(limit: Sweep, value: int, path: Path) -> None:
    if limit.as_user:
        _become_user()
    resource.setrlimit(limit.rlimit, (value, value))
    _served(path)


def _served(path: Path) -> None:
    with userfault.lazy(path, policy=Policy(background=False)) as mapped:
        pager = mapped._parts.pager
        narrow.check(mapped, 0)
        os.kill(member(pager, "worker"), signal.SIGKILL)
        for page in range(narrow.PAGES):
            narrow.check(mapped, page)


def _become_user() -> None:
    """A user whom the limit on processes holds (root is not held), and who has no other process."""
    uid = 100_000 + os.getpid() % 1_000_000
    os.setgroups([])
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)
