"""apt with a configuration of its own: nothing is installed, nothing of the machine changes.

Its lists, status and caches are below one directory.  Signatures are checked with the keys that
the machine has.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
import time
from pathlib import Path
from urllib.parse import unquote

from userfault.kernel.errors import Unavailable, UserfaultError

_TOOLS = ("apt-get", "apt-cache", "apt-config", "dpkg-deb")
_PROXY = re.compile(r"^Acquire::https?::(?:\S+::)?Proxy\S* .*;\n", re.MULTILINE)
_FILE = re.compile(r"^'[^']*' (\S+\.deb) ", re.MULTILINE)  # of --print-uris: its name as kept
_WITHIN_S = 300.0
_DOWNLOADS = "downloads-"


class NoPackage(Unavailable):
    """A package, or the mirror, cannot be had."""


class FetchFailed(UserfaultError):  # noqa: N818  # reads as what happened
    """This machine could not take in what was fetched."""


def remove_leftovers(folder: Path, prefix: str) -> None:
    """Remove folders that `tempfile` made there for a process of this user's which was killed."""
    ours = re.compile(re.escape(prefix) + r"[a-z0-9_]{8}")
    for entry in list(os.scandir(folder)):
        named = ours.fullmatch(entry.name) and entry.is_dir(follow_symlinks=False)
        if named and entry.stat(follow_symlinks=False).st_uid == os.geteuid():
            shutil.rmtree(entry.path, ignore_errors=True)


class Apt:
    """One apt, for the sources in `lines`.  Raises NoPackage without the tools.

    `preferred`: the suite whose packages are taken whatever versions the others have.
    """

    def __init__(
        self, home: Path, lines: str, *, preferred: str = "", within_s: float = _WITHIN_S
    ) -> None:
        for tool in _TOOLS:
            if not shutil.which(tool):
                raise NoPackage(
                    f"cannot fetch kernels: no {tool}",
                    cause="this is no Debian system",
                    cure="give a kernel of your own: --kernel VMLINUZ --modules DIR",
                )
        self._home = home
        self._preferred = preferred
        self._deadline = time.monotonic() + within_s
        for part in ("state/lists/partial", "cache/archives/partial", "parts"):
            (home / part).mkdir(parents=True, exist_ok=True)
        (home / "state/status").touch()
        (home / "sources.list").write_text(lines)
        (home / "apt.conf").write_text(self._configuration())

    def _configuration(self) -> str:
        """No hooks and no part of the machine's configuration, except how to reach the network."""
        home = self._home
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
            "Dir::Cache::pkgcache": "",
            "Dir::Cache::srcpkgcache": "",
            "APT::Default-Release": self._preferred,
            "APT::Sandbox::User": "root",  # the download user could not enter this directory
            "APT::Update::Error-Mode": "any",  # else a mirror out of reach is a warning
            "Acquire::GzipIndexes": "true",
            "Acquire::Languages": "none",
            "Acquire::Check-Valid-Until": "false",  # a mirror may be a snapshot
            "Acquire::Retries": "1",
            "Acquire::http::Timeout": "15",
            "Acquire::https::Timeout": "15",
        }
        dump = self._run(["apt-config", "dump"], private=False).stdout
        told = [f'{name} "{value}";\n' for name, value in settings.items()]
        return "".join([*told, *_PROXY.findall(dump)])

    def update(self) -> None:
        """Fetch the lists.  Raises NoPackage where the mirror cannot be reached."""
        done = self._run(["apt-get", "update"])
        if done.returncode:
            raise self._failed("cannot fetch the lists of packages", done)

    def show(self, package: str) -> dict[str, str]:
        """The fields of the newest version of a package.  Raises NoPackage."""
        done = self._run(["apt-cache", "--no-all-versions", "show", package])
        if done.returncode or not done.stdout.strip():
            raise NoPackage(
                f"the mirror has no package {package}",
                cause=complaint(done),
                cure="older versions vanish from a mirror: fetch again, or another suite",
            )
        fields: dict[str, str] = {}
        for line in done.stdout.splitlines():
            name, colon, value = line.partition(": ")
            if colon and not name.startswith(" "):
                fields.setdefault(name, value)
        return fields

    def names(self, prefix: str) -> list[str]:
        """The names of the mirror's packages that begin so."""
        return self._run(["apt-cache", "pkgnames", prefix]).stdout.split()

    def with_dependencies(self, wanted: list[str]) -> dict[str, str]:
        """Packages (name or name=version) and all they need, on a system that has none (name:
        version).  Raises NoPackage."""
        done = self._run(
            ["apt-get", "-qq", "--no-install-recommends", "--print-uris", "install", *wanted]
        )
        if done.returncode:
            raise self._failed(f"cannot have {' '.join(wanted)}", done)
        found = {}
        for file in _FILE.findall(done.stdout):
            name, version, _architecture = unquote(file).rsplit("_", 2)
            found[name] = version
        return found

    def unpack(self, packages: dict[str, str], into: Path) -> None:
        """Download packages (name: version), and unpack them into a directory."""
        remove_leftovers(self._home, _DOWNLOADS)
        downloads = Path(tempfile.mkdtemp(dir=self._home, prefix=_DOWNLOADS))
        try:
            names = [f"{name}={version}" for name, version in packages.items()]
            done = self._run(["apt-get", "download", *names], downloads)
            if done.returncode:
                raise self._failed(f"cannot download {' '.join(names)}", done)
            for package in downloads.glob("*.deb"):
                done = self._run(["dpkg-deb", "-x", str(package), str(into)])
                if done.returncode:
                    raise self._failed(f"cannot unpack {package.name}", done)
        finally:
            shutil.rmtree(downloads, ignore_errors=True)

    def _failed(self, what: str, done: subprocess.CompletedProcess[str]) -> UserfaultError:
        told = complaint(done)
        if "No space left" in done.stderr or "not enough free space" in done.stderr:
            return FetchFailed(what, cause=told, cure="free some space, or choose another --cache")
        return NoPackage(
            what,
            cause=told,
            cure="see that the mirror of /etc/apt can be reached; what was fetched before stays",
        )

    def _run(
        self, command: list[str], directory: Path | None = None, *, private: bool = True
    ) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "LC_ALL": "C"}
        if private:
            environment["APT_CONFIG"] = str(self._home / "apt.conf")
        left = max(1.0, self._deadline - time.monotonic())
        try:
            return subprocess.run(
                command,
                cwd=directory or self._home,
                env=environment,
                capture_output=True,
                text=True,
                check=False,
                timeout=left,
            )
        except subprocess.TimeoutExpired:
            raise NoPackage(
                f"{command[0]} did not finish", cause="the mirror is too slow, or does not answer"
            ) from None


def complaint(done: subprocess.CompletedProcess[str]) -> str:
    """The line of a run that says most about what went wrong."""
    told = done.stderr.splitlines()
    for start in ("E: Failed to fetch", "W: Failed to fetch", "E:", "dpkg-deb: error", "W:", ""):
        for line in told:
            if line.startswith(start):
                return line
    return f"exit status {done.returncode}"
