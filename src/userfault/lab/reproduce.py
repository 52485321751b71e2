"""Reproducers: stand-alone C programs, each of which prints in one line what a kernel does.

`reproducers/NAME.c` begins with comment lines: a question, `Statements:` with the numbers of the
statements that it is the program of, and what changed when.  It needs nothing of this package.
"""

from __future__ import annotations

import functools
import subprocess
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import msgspec

from userfault.check.live.agent.build import build
from userfault.kernel.errors import UsageError
from userfault.lab.cpio import Archive
from userfault.lab.machine import Machine

DIRECTORY = Path(__file__).with_name("reproducers")
OPTIONS = ("-O1", "-std=gnu11", "-static", "-pthread")
PROGRAM_S = 20
_BOOT_S = 60
_COMMENT = "// "
_STATEMENTS = "Statements:"
_LINE = "reproducer "
_END = "reproducers: done"


class Reproducer(msgspec.Struct, frozen=True):
    """One program.  `story` is what changed, as its first comment tells it."""

    name: str
    question: str
    statements: tuple[int, ...]
    story: str
    source: Path

    def program(self) -> Path:
        """It compiled, static.  Raises Unavailable without a C compiler."""
        return build(self.source, OPTIONS)


@functools.cache
def reproducers() -> dict[str, Reproducer]:
    """All of them by name."""
    found = (_parse(path) for path in sorted(DIRECTORY.glob("*.c")))
    return {one.name: one for one in found}


def reproducer(name: str) -> Reproducer:
    """The one of that name.  Raises UsageError."""
    known = reproducers()
    if name not in known:
        raise UsageError(
            f"there is no reproducer {name!r}", cure=f"use one of {', '.join(sorted(known))}"
        )
    return known[name]


def _parse(path: Path) -> Reproducer:
    """A reproducer by its first comment."""
    question, statements, *story = _first_comment(path.read_text().splitlines())
    return Reproducer(path.stem, question, tuple(_numbers(statements)), " ".join(story), path)


def _numbers(line: str) -> Iterator[int]:
    """`Statements: 40, 185-196`."""
    for part in line.removeprefix(_STATEMENTS).split(","):
        first, _, last = part.strip().partition("-")
        yield from range(int(first), int(last or first) + 1)


def _first_comment(lines: Iterable[str]) -> list[str]:
    found: list[str] = []
    for line in lines:
        if not line.startswith(_COMMENT):
            break
        found.append(line.removeprefix(_COMMENT).strip())
    return found


# --- Running them --------------------------------------------------------------------------------


def run_here(wanted: Iterable[Reproducer]) -> dict[str, str]:
    """What each prints on this kernel, by name."""
    return {one.name: _run(one.program()) for one in wanted}


def _run(program: Path) -> str:
    try:
        done = subprocess.run(
            [str(program)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=PROGRAM_S,  # then SIGKILL, which reaches a thread that waits for a page, too
            check=False,
            text=True,
        )
    except subprocess.TimeoutExpired:
        return f"hangs ({PROGRAM_S} s)"
    return done.stdout.strip() or f"ends with status {done.returncode}"


def run_in_guest(kernel: Path, system: bytes, wanted: Iterable[Reproducer]) -> dict[str, str]:
    """What each prints on a kernel that is booted for it, by name.

    `system` is the first part of the guest's image (`image.system`).  A program that hangs is
    killed; of one that takes the guest down, and of those after it, the last words are told.
    """
    programs = {one.name: one.program() for one in wanted}
    # Below 512 MiB, as a kernel counts, it has no transparent huge pages.
    machine = Machine(kernel, system + _payload(programs), memory_mib=768, extra="loglevel=1")
    try:
        deadline = time.monotonic() + _BOOT_S + PROGRAM_S * len(programs)
        while _END not in machine.console() and machine.running and time.monotonic() < deadline:
            time.sleep(0.05)
        told = _lines(machine.console())
        last_words = "" if len(told) == len(programs) else machine.last_words()
    finally:
        machine.close()
    return {name: told.get(name, f"the guest is lost: {last_words}") for name in programs}


def _payload(programs: dict[str, Path]) -> bytes:
    archive = Archive()
    for name, path in programs.items():
        archive.file(f"programs/{name}", path.read_bytes(), 0o755)
    hangs = f"hangs ({PROGRAM_S} s)"
    # One line a program, whole, so that nothing comes between its name and what it says.
    script = f"""for program in /programs/*; do
	said=$(busybox timeout -s KILL {PROGRAM_S} "$program")
	status=$?
	[ -n "$said" ] || said="ends with status $status"
	[ $status = 137 ] && said="{hangs}"
	echo "{_LINE}$(busybox basename "$program"): $said"
done
echo "{_END}"
busybox poweroff -f
"""
    archive.file("run", script.encode())
    return archive.pack()


def _lines(console: str) -> dict[str, str]:
    found = {}
    for line in console.splitlines():
        if line.startswith(_LINE):
            name, _, said = line.removeprefix(_LINE).partition(": ")
            found[name] = said
    return found
