"""Compiling the agent on first use, into a cache directory of the user.

The file's name carries a hash of the source and of the options, so a new release of this package
compiles anew and an old binary is never run.  The result is static and needs no C library.
"""

from __future__ import annotations

import os
import platform
from pathlib import Path

import blake3

from userfault.kernel.errors import Unavailable
from userfault.linux import homes

SOURCE = Path(__file__).with_name("agent.c")
_OPTIONS = (
    *("-O1", "-std=gnu11", "-static", "-nostdlib", "-ffreestanding", "-fno-builtin"),
    *("-fno-stack-protector", "-fno-pie", "-no-pie", "-mgeneral-regs-only"),
    "-fcf-protection=none",
    # Out of the way of what a program maps at the beginning of the address space.
    "-Wl,-Ttext=0x10000000",
)
_MACHINE = "x86_64"


class NoAgent(Unavailable):
    """The agent cannot be built or started here."""


def agent_path() -> Path:
    """The compiled agent; compiles it if there is none yet.  Raises NoAgent."""
    if platform.machine() != _MACHINE:
        raise NoAgent(
            f"cannot run here: no agent for {platform.machine()}",
            cause=f"the agent knows the system calls of {_MACHINE} only",
            cure="run the checks on the model: `userfault check --model`",
        )
    return build(SOURCE, _OPTIONS)


def build(source: Path, options: tuple[str, ...]) -> Path:
    """The program of a C file; compiles it if there is none yet.  Raises NoAgent."""
    name = blake3.blake3(source.read_bytes() + " ".join(options).encode()).hexdigest()[:16]
    target = cache_directory() / f"{source.stem}-{name}"
    if not target.exists():
        _compile(source, options, target)
    return target


def cache_directory() -> Path:
    """Where this user's compiled agents are; made with mode 0700.  Raises NoAgent."""
    base = homes.cache_home()
    if base is None:
        raise NoAgent(
            "cannot run here: no directory for the agent",
            cause="this user has no home, and neither HOME nor XDG_CACHE_HOME is set",
            cure="set XDG_CACHE_HOME to a directory of your own",
        )
    directory = Path(base, homes.OURS)
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = directory.stat()
    except OSError as error:
        raise NoAgent(
            f"cannot run here: no directory {directory}",
            cause=str(error),
            cure="set XDG_CACHE_HOME",
        ) from None
    # What is in there gets executed.
    if found.st_uid != os.geteuid() or found.st_mode & 0o022:
        raise NoAgent(
            f"cannot run here: {directory} is not safe",
            cause="others can write there",
            cure=f"chmod go-w {directory}, or set XDG_CACHE_HOME",
        )
    return directory


def compiler() -> list[str]:
    """The command of a C compiler: $CC, or the first there is.  Raises NoAgent."""
    import shlex  # noqa: PLC0415  # see _compile
    import shutil  # noqa: PLC0415

    chosen = os.environ.get("CC")
    if chosen:
        return shlex.split(chosen)
    for name in ("cc", "gcc", "clang"):
        if shutil.which(name):
            return [name]
    raise NoAgent("cannot run here: no C compiler", cure="install gcc or clang, or set CC")


def _compile(source: Path, options: tuple[str, ...], target: Path) -> None:
    # Here, as it is mostly compiled already, and a program waits for what is loaded.
    import shlex  # noqa: PLC0415
    import subprocess  # noqa: PLC0415
    import tempfile  # noqa: PLC0415

    chosen = compiler()
    # Renamed into place: two first runs at once must not execute half a file.
    file, unfinished = tempfile.mkstemp(dir=target.parent, prefix="unfinished-")
    os.close(file)
    command = [*chosen, *options, "-o", unfinished, str(source)]
    try:
        subprocess.run(command, check=True, capture_output=True, text=True)
        os.chmod(unfinished, 0o700)
        os.replace(unfinished, target)
    except (OSError, subprocess.CalledProcessError) as error:
        Path(unfinished).unlink(missing_ok=True)
        told = error.stderr if isinstance(error, subprocess.CalledProcessError) else str(error)
        raise NoAgent(
            "cannot run here: the C compiler failed",
            cause=f"{shlex.join(command)}: {told.strip()}",
            cure="set CC to a C compiler, or unset it",
        ) from None
