"""Functions that tests use as sources; they run in the pager's workers."""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

from helpers.pages import PAGE, pages

FLAGS = (
    "isolated", "ignore_environment", "no_user_site", "no_site", "safe_path", "optimize",
    "dont_write_bytecode", "bytes_warning", "dev_mode", "utf8_mode",
)  # fmt: skip


def numbered(offset: int, length: int) -> bytes:
    """Page n holds n + 1, as in the image."""
    return pages(offset // PAGE + 1, length // PAGE)


def bad_page(offset: int, length: int, bad: int) -> bytes:
    """Page `bad` cannot be read."""
    if offset <= bad * PAGE < offset + length:
        raise ValueError(f"page {bad} is broken")
    return numbered(offset, length)


def bad_pages(offset: int, length: int, bad: list[int]) -> bytes:
    """Each page of `bad` cannot be read for a reason of its own."""
    for page in bad:
        bad_page(offset, length, page)
    return numbered(offset, length)


def no_such_file(_offset: int, _length: int) -> bytes:
    """Fails with a name that is not UTF-8 in its text."""
    raise OSError(os.fsdecode(b"nothing at caf\xe9.mem"))


def broken(_offset: int, _length: int) -> bytes:
    """No page can be read."""
    raise OSError("the disk is gone")


def flaky(offset: int, length: int, mark: str) -> bytes:
    """Fails the first time it is called at all."""
    if not Path(mark).exists():
        Path(mark).touch()
        raise OSError("not yet")
    return numbered(offset, length)


def slow_page(offset: int, length: int, slow: int, seconds: float) -> bytes:
    """Page `slow` takes its time."""
    if offset <= slow * PAGE < offset + length:
        time.sleep(seconds)
    return numbered(offset, length)


def slow(offset: int, length: int, seconds: float) -> bytes:
    """Every page takes its time."""
    time.sleep(seconds)
    return numbered(offset, length)


def crash(_offset: int, _length: int) -> bytes:
    """The worker dies."""
    os._exit(9)


def short(offset: int, length: int) -> bytes:
    """Returns less than was asked for."""
    return numbered(offset, length)[:-1]


def gated(offset: int, length: int, gate: str, closed: int) -> bytes:
    """Page `closed` (-1: every page) is read once the file `gate` exists."""
    if closed < 0 or offset <= closed * PAGE < offset + length:
        while not Path(gate).exists():
            time.sleep(0.01)
    return numbered(offset, length)


def failing_and_gated(offset: int, length: int, gate: str) -> bytes:
    """Page 1 fails, and adds a byte to the file `gate`.failed; page 2 waits for the file `gate`."""
    if offset <= PAGE < offset + length:
        with Path(f"{gate}.failed").open("ab") as failed:
            failed.write(b"!")
        raise OSError("not yet")
    return gated(offset, length, gate, 2)


def announced(offset: int, length: int, gate: str) -> bytes:
    """Makes the file `gate`.asked, and waits for the file `gate`."""
    Path(f"{gate}.asked").touch()
    return gated(offset, length, gate, -1)


def counted(offset: int, length: int, folder: str) -> bytes:
    """Notes in `folder` how many such reads there are at once, in all processes."""
    seen, now = Path(folder) / "seen", Path(folder) / "now"
    seen.mkdir(exist_ok=True)
    now.mkdir(exist_ok=True)
    mark = now / f"{os.getpid()}"
    mark.touch()
    (seen / f"{len(list(now.iterdir()))}").touch()
    time.sleep(0.01)
    mark.unlink()
    return numbered(offset, length)


def wordy(_offset: int, _length: int, text: str) -> bytes:
    """Fails with much to say."""
    raise ValueError(text)


def wordy_page(offset: int, _length: int, text: str) -> bytes:
    """Fails with much to say, of each page something else."""
    raise ValueError(f"{offset} {text}")


class Mute(Exception):  # noqa: N818
    """An exception that cannot even be told."""

    def __str__(self) -> str:
        raise RuntimeError("no text")


def mute(_offset: int, _length: int) -> bytes:
    """Fails without a word."""
    raise Mute


def sized(offset: int, length: int, large: bytes, *, more: bytes = b"") -> bytes:
    """Page n holds n + 1 plus the sizes of its arguments."""
    return pages(offset // PAGE + 1 + len(large) + len(more), length // PAGE)


def interpreter(_offset: int, length: int) -> bytes:
    """How the interpreter that runs this was started, as JSON."""
    flags = {name: getattr(sys.flags, name) for name in FLAGS}
    told = [flags, sorted(sys.warnoptions), sorted(map(str, sys._xoptions.items()))]
    return json.dumps(told).encode().ljust(length, b"\0")


def shouting(offset: int, length: int) -> bytes:
    """Writes more to standard error than a pipe holds."""
    for _ in range(20):
        print("s" * 5000, file=sys.stderr, flush=True)
    return numbered(offset, length)
