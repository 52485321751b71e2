"""A CRIU that works here: unpacked from Debian's unstable into a folder of its own.

Debian 12's own (3.17) fails on newer kernels (vDSO), and newer ones need a newer C library.  So apt
loads the package with all it depends on, by a configuration of its own that leaves the system's
alone, each is unpacked, and the program is started through the dynamic loader found there.
"""

from __future__ import annotations

import contextlib
import functools
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

from helpers.skips import absent, need_root

_SUITE = "unstable"


def need_criu() -> list[str]:
    """The start of a command line that runs it."""
    need_root()
    problem, command = _criu()
    if problem:
        absent(f"CRIU: {problem}")
    return command


@functools.cache
def _criu() -> tuple[str, list[str]]:
    """What keeps us from having it, or how to start it."""
    if not shutil.which("apt-get") or os.uname().machine != "x86_64":
        return "it is unpacked from Debian's packages for x86-64", []
    folder = Path(tempfile.gettempdir(), f"userfault-criu-{os.getuid()}")
    if not folder.exists():
        problem = _unpack(folder)
        if problem:
            return problem, []
    libraries = folder / "usr/lib/x86_64-linux-gnu"
    loader = libraries / "ld-linux-x86-64.so.2"
    command = [str(loader), "--library-path", str(libraries), str(folder / "usr/sbin/criu")]
    checked = subprocess.run([*command, "check"], capture_output=True, text=True, check=False)
    return ("", command) if checked.returncode == 0 else (checked.stderr.strip()[-300:], [])


def dump(criu: list[str], pid: int, images: Path, *more: str) -> None:
    """Dump the process tree below `pid`, which ends with that."""
    _run([*criu, "dump", "-t", str(pid), "--images-dir", str(images), *more])


@contextlib.contextmanager
def restored(criu: list[str], images: Path, work: Path, *more: str) -> Iterator[None]:
    """Restore it lazily, by the daemon that listens in `work`; it runs until the end of the block.

    In a new pid namespace, where its process ids are free.
    """
    command = [*criu, "restore", "--lazy-pages", "--images-dir", str(images)]
    command += ["--work-dir", str(work), "-d", "-v4", "-o", "restore.log", *more]
    wait = 'trap "" HUP; "$@"; echo $?; read end'  # the first process of the namespace
    with subprocess.Popen(
        ["unshare", "-pf", "--mount-proc", "--kill-child", "sh", "-c", wait, "sh", *command],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            assert process.stdout is not None
            code = process.stdout.readline().strip()
            if code != "0":
                log = (work / "restore.log").read_text(errors="replace")
                raise AssertionError(f"criu restore: {code}: {log[-2000:]}")
            yield
        finally:
            process.kill()


def _run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, f"{command}: {done.stderr[-2000:]}"


def _unpack(folder: Path) -> str:
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
        for command in (["update"], ["install", "-y", "--download-only", "criu"]):
            done = subprocess.run(
                [*apt, *command], capture_output=True, text=True, timeout=300, check=False
            )
            if done.returncode:
                return f"apt-get {command[0]}: {done.stderr.strip()[-300:]}"
        for package in sorted((work / "archives").glob("*.deb")):
            subprocess.run(["dpkg-deb", "-x", str(package), str(work / "root")], check=True)
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
