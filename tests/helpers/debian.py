"""Programs of Debian's unstable, unpacked into a folder of their own; the system's stay alone.

apt loads a package with all it depends on, by a configuration of its own, each is unpacked, and the
program is started through the dynamic loader found there.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import NamedTuple

_SUITE = "unstable"


class Folder(NamedTuple):
    """Where it is, and the start of a command line for what is in it."""

    path: Path
    started_by: list[str]


def unpacked(package: str) -> tuple[str, Folder]:
    """What keeps us from having it ("": nothing), and where it is."""
    name = package.removesuffix("-server")
    folder = Path(tempfile.gettempdir(), f"userfault-{name}-{os.getuid()}")
    libraries = folder / "usr/lib/x86_64-linux-gnu"
    loader = libraries / "ld-linux-x86-64.so.2"
    found = Folder(folder, [str(loader), "--library-path", str(libraries)])
    if not shutil.which("apt-get") or os.uname().machine != "x86_64":
        return "it is unpacked from Debian's packages for x86-64", found
    return ("" if folder.exists() else _unpack(folder, package)), found


def _unpack(folder: Path, package: str) -> str:
    """Fill `folder`, all of it or nothing; why it could not be done."""
    mirror = _mirror()
    if not mirror:
        return "apt knows no mirror of Debian"
    with tempfile.TemporaryDirectory(dir=folder.parent) as name:
        work = Path(name)
        for each in ("lists/partial", "archives/partial", "root"):
            (work / each).mkdir(parents=True)
        (work / "sources").write_text(f"deb {mirror} {_SUITE} main\n")
        (work / "status").touch()
        options = (
            f"Dir::Etc::sourcelist={work}/sources",
            "Dir::Etc::sourceparts=/dev/null",
            f"Dir::State::lists={work}/lists",
            f"Dir::State::status={work}/status",
            f"Dir::Cache::archives={work}/archives",
            "Dir::Cache::pkgcache=",
            "Dir::Cache::srcpkgcache=",
            "APT::Install-Recommends=false",
            "APT::Sandbox::User=root",
            "Debug::NoLocking=1",
        )
        apt = ["apt-get", "-qq", *(word for option in options for word in ("-o", option))]
        for command in (["update"], ["install", "-y", "--download-only", package]):
            done = subprocess.run(
                [*apt, *command], capture_output=True, text=True, timeout=300, check=False
            )
            if done.returncode:
                return f"apt-get {command[0]}: {done.stderr.strip()[-300:]}"
        for archive in sorted((work / "archives").glob("*.deb")):
            subprocess.run(["dpkg-deb", "-x", str(archive), str(work / "root")], check=True)
        try:
            (work / "root").rename(folder)
        except OSError:
            if not folder.exists():  # another test run was faster
                raise
    return ""


def _mirror() -> str:
    """Where this system has its Debian packages from."""
    listed = subprocess.run(
        [
            "apt-get",
            "indextargets",
            "--format",
            "$(REPO_URI)|$(ORIGIN)|$(LABEL)",
            "Created-By: Packages",
        ],
        capture_output=True,
        text=True,
        check=False,
    ).stdout.split()
    found = [line.split("|")[0] for line in listed if line.endswith("|Debian|Debian")]
    return found[0] if found else ""
