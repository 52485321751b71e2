"""`--order FILE`: the pages that a restore touches first, read as a stream, or as a working set.

A pipe will do, as the shell makes one for <(...).  A FIFO that nobody writes to would keep open(2)
waiting for ever: it is opened without waiting, and then refused.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator

import click

from userfault.cli.store.places import snapshot
from userfault.kernel.names import shown
from userfault.snapshot.format.working_set import MAGIC, MOST_STORED, WorkingSet, decode
from userfault.snapshot.inputs.protocol import PAGE
from userfault.snapshot.working_sets.naming import set_key

_LONGEST = 4096  # bytes of a line: what has none (an image, /dev/zero) is told from a list
_PIECE = 1 << 16
_STANDARD_INPUT = 0


def pages(ctx: click.Context, param: click.Parameter, value: str | None) -> list[int] | None:
    """Callback of the option: the pages in their order."""
    del param
    if value is None:
        return None
    try:
        if not os.path.lexists(value) and "/" in value:
            return _of_snapshot(ctx, value)
        if value == "-":
            return list(_pages(_STANDARD_INPUT, b""))
        fd = os.open(value, os.O_RDONLY | os.O_CLOEXEC | os.O_NOCTTY | os.O_NONBLOCK)
        try:
            begin = _begin(fd, value) or os.read(fd, _PIECE)
            if begin.startswith(MAGIC):
                return _of_set(fd, begin, value)
            return list(_pages(fd, begin))
        finally:
            os.close(fd)
    except OSError as error:
        raise _bad(f"cannot read {shown(value)}: {os.strerror(error.errno or 0)}") from None


def _of_snapshot(ctx: click.Context, value: str) -> list[int]:
    """Those of the set that a snapshot has: of the same image, or one that is much like it."""
    where = snapshot(ctx, None, value)
    key = set_key(where.name)
    data = where.open_existing().get(key, most=MOST_STORED)
    return _in_order(decode(data, f"the working set of {shown(value)}"))


def _of_set(fd: int, begin: bytes, path: str) -> list[int]:
    """The pages of 4 KiB of a working set, those that are touched first before the others."""
    data = bytearray(begin)
    while len(data) <= MOST_STORED and (more := os.read(fd, _PIECE)):
        data += more
    return _in_order(decode(bytes(data), f"the working set {shown(path)}"))


def _in_order(held: WorkingSet) -> list[int]:
    each = held.page_size // PAGE
    return [part for page in held.in_order() for part in range(page * each, (page + 1) * each)]


def _begin(fd: int, path: str) -> bytes:
    """What is there already of a pipe, which nobody may write to."""
    begin = b""
    if stat.S_ISFIFO(os.fstat(fd).st_mode):
        try:
            begin = os.read(fd, _PIECE)
            if not begin:
                raise _bad(f"nobody writes to the pipe {shown(path)}: start its writer first")
        except BlockingIOError:
            pass  # a writer has it open
    os.set_blocking(fd, True)
    return begin


def _pages(fd: int, begin: bytes) -> Iterator[int]:
    """The pages of each line; `#` begins a comment."""
    for number, line in enumerate(_lines(fd, begin), 1):
        text = line.decode(errors="replace").partition("#")[0].strip()
        first, dash, last = text.partition("-")
        if text and not (first.strip().isdecimal() and (last.strip().isdecimal() or not dash)):
            raise _bad(f"line {number} is {text[:80]!r}: a page number or a range a-b is meant")
        if text:
            yield from range(int(first), int(last if dash else first) + 1)


def _lines(fd: int, held: bytes) -> Iterator[bytes]:
    while True:
        data = os.read(fd, _PIECE)
        *lines, held = (held + data).split(b"\n")
        yield from lines
        if not data:
            yield held
            return
        if len(held) > _LONGEST:
            raise _bad(f"a line has more than {_LONGEST} bytes: it is no list of pages")


def _bad(text: str) -> click.BadParameter:
    return click.BadParameter(text, param_hint="--order")
