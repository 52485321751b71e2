"""The running Python, this project and what it depends on, as an archive for a guest.

Everything keeps its path, so the interpreter finds its library as it does here.  The project and
the distributions it needs are under `SITE`.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import sysconfig
from collections.abc import Iterable, Iterator
from importlib import metadata
from pathlib import Path

from userfault.kernel.errors import Unavailable
from userfault.lab.cpio import Archive

SITE = "/lab/site-packages"
# The core dependencies of pyproject.toml; what they need themselves is found.
NEEDS = (
    "msgspec",
    "pyroaring",
    "click",
    "rich",
    "blake3",
    "greenlet",
    "sortedcontainers",
    "zstandard",
)
_NOT_TAKEN = {
    *("test", "tests", "idlelib", "tkinter", "turtledemo", "ensurepip", "lib2to3", "distutils"),
    *("site-packages", "dist-packages", "pydoc_data"),
}
_LEFT_OUT = re.compile(r".*\.a$|_tkinter\.|_test|_ctypes_test")  # _tkinter: all of X11
_LIBRARY = re.compile(r"(?:=>\s+)?(/\S+)\s+\(0x")
_REQUIREMENT = re.compile(r"[A-Za-z0-9._-]+")


def add_python(archive: Archive) -> None:
    """Put all of it into an archive, and the commands python3 and userfault."""
    program = os.path.realpath(sys.executable)
    binaries = [program]
    _add(archive, Path(program))
    for path in _tree(Path(sysconfig.get_path("stdlib"))):
        _add(archive, path)
        binaries += _binary(path)
    project = Path(__file__).resolve().parents[1]
    for path in _tree(project):
        _add(archive, path, f"{SITE}/userfault/{path.relative_to(project)}")
    for path, place in _distributions():
        _add(archive, path, f"{SITE}/{place}")
        binaries += _binary(path)
    folders = set()
    for library in _libraries(binaries):
        _add(archive, Path(library))
        folders.add(os.path.dirname(library))
    # Our own names for what stands elsewhere here, or is a script of an environment here.
    python = (
        "#!/bin/busybox sh\n"
        f"export LD_LIBRARY_PATH='{':'.join(sorted(folders))}' PYTHONPATH='{SITE}'\n"
        "export PYTHONNOUSERSITE=1 PYTHONDONTWRITEBYTECODE=1\n"
        f"exec '{program}' "
    )
    archive.file("bin/python3", f'{python}"$@"\n'.encode(), 0o755)
    archive.link("bin/python", "python3")
    archive.file("bin/userfault", f'{python}-m userfault "$@"\n'.encode(), 0o755)


def add_path(archive: Archive, path: Path) -> None:
    """A file or a folder of the user's, where it is here, with the libraries of what is a program.

    Raises Unavailable where it cannot be read.
    """
    found = list(_tree(path)) if path.is_dir() else [path]
    try:
        for file in found:
            _add(archive, file.absolute())
        for library in _libraries([name for file in found for name in _binary(file)]):
            _add(archive, Path(library))
    except OSError as error:
        raise Unavailable(f"cannot take {path} into a guest", cause=str(error)) from None


def _add(archive: Archive, path: Path, place: str = "") -> None:
    mode = 0o755 if os.access(path, os.X_OK) else 0o644
    archive.file(place or str(path), path.read_bytes(), mode, int(path.stat().st_mtime))


def _tree(root: Path) -> Iterator[Path]:
    for folder, folders, files in os.walk(root):
        folders[:] = sorted(
            name for name in folders if name not in _NOT_TAKEN and not name.startswith("config-")
        )
        for name in sorted(files):
            path = Path(folder, name)
            if path.is_file() and not _LEFT_OUT.match(name):
                yield path


def _binary(path: Path) -> list[str]:
    """The path, if it is an ELF file."""
    with path.open("rb") as file:
        return [str(path)] if file.read(4) == b"\x7fELF" else []


def _libraries(binaries: Iterable[str]) -> set[str]:
    """The shared libraries of programs and libraries, and their loader, as ldd(1) tells them."""
    found: set[str] = set()
    wanted = list(binaries)
    if wanted:
        try:
            told = subprocess.run(["ldd", *wanted], capture_output=True, text=True, check=False)
        except OSError as error:
            raise Unavailable("cannot take Python into a guest", cause=f"ldd: {error}") from None
        found = set(_LIBRARY.findall(told.stdout))
    return found


def _distributions() -> Iterator[tuple[Path, str]]:
    """The files of what the project needs, and of what that needs: (file, place in SITE)."""
    waiting, seen = list(NEEDS), set()
    while waiting:
        name = waiting.pop().lower().replace("_", "-")
        if name in seen:
            continue
        seen.add(name)
        try:
            found = metadata.distribution(name)
        except metadata.PackageNotFoundError:
            continue  # for another platform or version of Python, as its marker would say
        for required in found.requires or ():
            if ";" not in required and (match := _REQUIREMENT.match(required)):
                waiting.append(match[0])
        for file in found.files or ():
            path = Path(str(found.locate_file(file)))
            if not str(file).startswith("..") and path.is_file():
                yield path, str(file)
