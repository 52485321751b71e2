"""Fetch the newest kernel headers that the machine's own package mirror offers.

Debian packs the kernel's user-space headers as linux-libc-dev, and its newer suites carry newer
kernels. This helper asks the configured mirror for those suites, downloads the newest package and
unpacks it into a per-user cache; nothing is installed and the machine's apt state stays as it is:
apt runs with its own configuration, lists and caches. Signatures are checked with the keys the
machine has; a suite whose signature it cannot check is left out.

Whatever is missing (apt, network, a Debian mirror) raises `NoHeadersError` with the reason.
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

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


# --- The configured mirror -----------------------------------------------------------------------


@dataclass(frozen=True)
class Mirror:
    uri: str
    signed_by: str


def parse_one_line(text: str) -> Iterator[tuple[str, list[str], list[str], str]]:
    """(uri, suites, components, signed-by) of each `deb` line of a one-line-format list."""
    pattern = re.compile(r"deb\s+(?:\[(?P<options>[^]]*)\]\s+)?(?P<rest>\S.*)")
    for line in text.splitlines():
        match = pattern.fullmatch(line.split("#", 1)[0].strip())
        if not match:
            continue
        words = match["rest"].split()
        signed = re.search(r"signed-by=(\S+)", match["options"] or "", re.IGNORECASE)
        yield words[0], words[1:2], words[2:], signed[1] if signed else ""


def parse_deb822(text: str) -> Iterator[tuple[str, list[str], list[str], str]]:
    """The same for a deb822-format file; a stanza with several addresses gives the first."""
    text = re.sub(r"^#.*\n?", "", text, flags=re.MULTILINE)
    for stanza in re.split(r"\n\s*\n", text):
        fields = {
            key.lower(): " ".join(value.split())
            for key, value in re.findall(r"^([\w-]+):(.*(?:\n[ \t].*)*)", stanza, re.MULTILINE)
        }
        uris = fields.get("uris", "").split()
        wanted = "deb" in fields.get("types", "").split()
        if not uris or not wanted or fields.get("enabled", "yes").lower() in ("no", "false", "0"):
            continue
        # A key block pasted into the file is not a path: apt's own key ring decides then.
        signed = fields.get("signed-by", "")
        signed = signed if signed.startswith("/") else ""
        yield (
            uris[0],
            fields.get("suites", "").split(),
            fields.get("components", "").split(),
            signed,
        )


def _source_entries() -> Iterator[tuple[str, list[str], list[str], str]]:
    etc = Path("/etc/apt")
    parts = etc / "sources.list.d"
    for path in [etc / "sources.list", *sorted(parts.glob("*.list"))]:
        if path.is_file():
            yield from parse_one_line(path.read_text(errors="replace"))
    for path in sorted(parts.glob("*.sources")):
        yield from parse_deb822(path.read_text(errors="replace"))


def configured_mirror() -> Mirror:
    """The archive the machine gets its own release from."""
    release = re.search(r"^VERSION_CODENAME=\"?(\w+)", _read(Path("/etc/os-release")), re.MULTILINE)
    releases = {"stable", "testing", "unstable", *SUITES, *([release[1]] if release else [])}
    for uri, suites, components, signed_by in _source_entries():
        if "main" in components and releases.intersection(suites):
            return Mirror(uri, signed_by)
    raise NoHeadersError(
        "apt's source lists name no archive with a Debian release and its main part"
    )


def _read(path: Path) -> str:
    return path.read_text() if path.is_file() else ""


# --- The fetch -----------------------------------------------------------------------------------


class _Apt:
    """apt with a configuration of its own, within one directory and one deadline."""

    def __init__(self, home: Path, mirror: Mirror) -> None:
        self.home = home
        self.deadline = time.monotonic() + FETCH_WITHIN
        for part in ("state/lists/partial", "cache/archives/partial", "parts"):
            (home / part).mkdir(parents=True)
        (home / "state/status").touch()
        option = f"[signed-by={mirror.signed_by.replace(' ', ',')}] " if mirror.signed_by else ""
        lines = [f"deb {option}{mirror.uri} {suite} main\n" for suite in SUITES]
        (home / "sources.list").write_text("".join(lines))
        (home / "apt.conf").write_text(self._configuration())

    def _configuration(self) -> str:
        """No hooks and no part of the machine's configuration, except how to reach the network."""
        home = self.home
        settings = {
            "Dir::Etc::Main": "/dev/null",
            "Dir::Etc::Parts": f"{home}/parts",
            "Dir::Etc::SourceList": f"{home}/sources.list",
            "Dir::Etc::SourceParts": f"{home}/parts",
            "Dir::Etc::Preferences": "/dev/null",
            "Dir::Etc::PreferencesParts": f"{home}/parts",
            "Dir::State": f"{home}/state",
            "Dir::State::Lists": f"{home}/state/lists",
            "Dir::State::Status": f"{home}/state/status",
            "Dir::Cache": f"{home}/cache",
            "APT::Sandbox::User": "root",  # the download user could not enter this directory
            "Acquire::Languages": "none",
            "Acquire::Check-Valid-Until": "false",  # a mirror may be a snapshot
            "Acquire::Retries": "0",
            "Acquire::http::Timeout": "10",
            "Acquire::https::Timeout": "10",
        }
        lines = [f'{name} "{value}";\n' for name, value in settings.items()]
        network = self._run(["apt-config", "dump"], private=False).stdout
        lines += re.findall(r"^Acquire::https?::(?:\S+::)?Proxy\S* .*;\n", network, re.MULTILINE)
        return "".join(lines)

    def _run(self, command: list[str], *, private: bool = True) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "LC_ALL": "C"}
        if private:
            environment["APT_CONFIG"] = str(self.home / "apt.conf")
        try:
            return subprocess.run(
                command,
                cwd=self.home,
                env=environment,
                capture_output=True,
                text=True,
                check=False,
                timeout=max(1.0, self.deadline - time.monotonic()),
            )
        except subprocess.TimeoutExpired:
            raise NoHeadersError(f"{command[0]} did not finish in {FETCH_WITHIN:.0f} s") from None

    def newest_version(self) -> str:
        # A suite that the mirror lacks makes `update` fail, but the others are usable.
        update = self._run(["apt-get", "update"])
        versions = [
            line.split("|")[1].strip()
            for line in self._run(["apt-cache", "madison", PACKAGE]).stdout.splitlines()
        ]
        if not versions:
            raise NoHeadersError(f"the mirror gave no {PACKAGE}: {_complaint(update)}")
        newest = versions[0]
        for version in versions[1:]:
            if self._run(["dpkg", "--compare-versions", version, "gt", newest]).returncode == 0:
                newest = version
        return newest

    def unpack(self, version: str) -> Path:
        download = self._run(["apt-get", "download", f"{PACKAGE}={version}"])
        packages = list(self.home.glob(f"{PACKAGE}_*.deb"))
        if download.returncode or not packages:
            raise NoHeadersError(f"{PACKAGE} {version} did not download: {_complaint(download)}")
        tree = self.home / "tree"
        unpacked = self._run(["dpkg-deb", "-x", str(packages[0]), str(tree)])
        if unpacked.returncode:
            raise NoHeadersError(f"{PACKAGE} {version} did not unpack: {_complaint(unpacked)}")
        return tree


def _complaint(result: subprocess.CompletedProcess[str]) -> str:
    """The line of an apt run that says most about what went wrong."""
    lines = result.stderr.splitlines()
    for start in ("W: Failed to fetch", "E: Failed to fetch", "E:", ""):
        for line in lines:
            if line.startswith(start):
                return line
    return f"exit status {result.returncode}"


def _fetch(cache: Path) -> str:
    for tool in ("apt-get", "apt-cache", "apt-config", "dpkg", "dpkg-deb"):
        if not shutil.which(tool):
            raise NoHeadersError(f"{tool} is not installed")
    mirror = configured_mirror()
    with tempfile.TemporaryDirectory(prefix="fetch-", dir=cache) as home:
        apt = _Apt(Path(home), mirror)
        version = apt.newest_version()
        goal = cache / "trees" / version
        if not goal.is_dir():
            goal.parent.mkdir(exist_ok=True)
            apt.unpack(version).rename(goal)
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
