"""Fetch the newest kernel headers that the machine's own package mirror offers.

Debian packs the kernel's user-space headers as linux-libc-dev, and its newer suites carry newer
kernels. This helper asks the configured mirror for those suites as the lab does for kernels
(nothing is installed), downloads the newest package and unpacks it into a per-user cache. A suite
that the mirror lacks, or whose signature cannot be checked, is left out.

Whatever is missing (apt, network, a Debian mirror) raises `NoHeadersError` with the reason.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from userfault.kernel.errors import Unavailable, UserfaultError
from userfault.lab.apt import Apt
from userfault.lab.sources import mirror

SUITES = ("bookworm-backports", "trixie", "trixie-backports", "sid")
PACKAGE = "linux-libc-dev"

FRESH_FOR = 24 * 3600.0  # a fetched header serves for a day
RETRY_AFTER = 600.0  # a failed fetch is not repeated by every worker and every run
FETCH_WITHIN = 55.0  # seconds for the whole fetch


class NoHeadersError(Exception):
    """The headers cannot be had on this machine; the text says why."""


@dataclass(frozen=True)
class Unpacked:
    """An unpacked linux-libc-dev."""

    version: str
    root: Path
    note: str = ""  # why it is older than it should be

    @property
    def include(self) -> Path:
        return self.root / "usr" / "include"


# --- The fetch -----------------------------------------------------------------------------------


def _newest(home: Path) -> tuple[str, Apt]:
    """The newest version of the package, and the apt that has it."""
    found: list[tuple[str, Apt]] = []
    why = "no suite was asked"
    for suite in SUITES:
        try:
            lines = mirror().archive.line(suite)
            apt = Apt(home / suite, lines, preferred=suite, within_s=FETCH_WITHIN / len(SUITES))
            apt.update()
            found.append((apt.show(PACKAGE)["Version"], apt))
        except Unavailable as error:  # the mirror lacks this suite, or its signature is not known
            why = str(error)
    if not found:
        raise NoHeadersError(f"the mirror gave no {PACKAGE}: {why}")
    newest = found[0]
    for other in found[1:]:
        command = ["dpkg", "--compare-versions", other[0], "gt", newest[0]]
        if subprocess.run(command, check=False).returncode == 0:
            newest = other
    return newest


def _fetch(cache: Path) -> str:
    with tempfile.TemporaryDirectory(prefix="fetch-", dir=cache) as home:
        version, apt = _newest(Path(home))
        goal = cache / "trees" / version
        if not goal.is_dir():
            goal.parent.mkdir(exist_ok=True)
            tree = Path(home) / "tree"
            try:
                apt.unpack({PACKAGE: version}, tree)
            except UserfaultError as error:
                raise NoHeadersError(str(error)) from None
            tree.rename(goal)
    for other in goal.parent.iterdir():
        if other != goal:
            shutil.rmtree(other)
    return version


# --- The cache -----------------------------------------------------------------------------------


def cache_directory() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(base).expanduser() / "userfault" / PACKAGE


@contextmanager
def _locked(cache: Path) -> Iterator[None]:
    """One fetch at a time: with pytest-xdist several workers want the same headers."""
    try:
        cache.mkdir(parents=True, exist_ok=True)
        lock = (cache / "lock").open("w")
    except OSError as error:
        raise NoHeadersError(f"the cache directory cannot be written: {error}") from error
    with lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _age(path: Path) -> float:
    return time.time() - path.stat().st_mtime if path.exists() else float("inf")


def newest_headers() -> Unpacked:
    """The newest headers to be had, fetched at most once a day."""
    cache = cache_directory()
    current = cache / "current"  # holds the version in use; its age is the age of the answer
    failed = cache / "failed"  # holds the reason of the latest failure
    note = ""
    with _locked(cache):
        if _age(current) > FRESH_FOR:
            try:
                if _age(failed) < RETRY_AFTER:
                    raise NoHeadersError(failed.read_text())
                version = _fetch(cache)
                current.write_text(version)
                failed.unlink(missing_ok=True)
            except NoHeadersError as reason:
                if _age(failed) >= RETRY_AFTER:
                    failed.write_text(str(reason))
                if not current.exists():
                    raise
                note = f"kept from {_age(current) / 3600:.0f} hours ago: {reason}"
        version = current.read_text()
    unpacked = Unpacked(version, cache / "trees" / version, note)
    if not (unpacked.include / "linux" / "userfaultfd.h").is_file():
        current.unlink(missing_ok=True)  # somebody cleaned the cache: the next run fetches again
        raise NoHeadersError(f"the cached {PACKAGE} {version} is incomplete")
    return unpacked
