"""An open file gives the bytes that reading it gives, or is refused with what to pass instead."""

# ruff: noqa: SIM115  # a stack closes them
from __future__ import annotations

import bz2
import codecs
import contextlib
import gzip
import io
import lzma
import multiprocessing
import os
import socket
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np
import pytest

from source.taken import taken
from userfault import SourceError, SourceTypeError, UsageError
from userfault.source.spec import resolve

DATA = os.urandom(20_000)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A file with DATA."""
    path = tmp_path / "data"
    path.write_bytes(DATA)
    return path


@pytest.mark.parametrize("buffering", [-1, 0], ids=["buffered", "raw"])
@pytest.mark.parametrize("mode", ["rb", "r+b"])
def test_an_open_file_is_its_bytes(path: Path, mode: str, buffering: int) -> None:
    with open(path, mode, buffering) as file:
        file.read(10)  # where it stands does not matter
        assert taken(file) == DATA
        assert file.tell() == 10


@pytest.mark.parametrize("size", [500, 20_000])
def test_what_is_written_and_not_flushed_is_served(tmp_path: Path, size: int) -> None:
    with open(tmp_path / "new", "w+b") as file:
        for at in range(0, size, 100):
            file.write(DATA[at : at + 100])
        assert taken(file) == DATA[:size]


def test_what_is_written_over_old_bytes_is_served(path: Path) -> None:
    with path.open("r+b") as file:
        file.seek(100)
        file.write(bytes(50))
        assert taken(file) == DATA[:100] + bytes(50) + DATA[150:]
        assert file.tell() == 150


@pytest.mark.parametrize("make", [tempfile.NamedTemporaryFile, tempfile.TemporaryFile])
def test_a_temporary_file_is_served_with_all_that_was_written(make: Callable[[], Any]) -> None:
    with make() as file:
        file.write(DATA[:300])
        assert taken(file) == DATA[:300]


def test_a_spooled_file_becomes_a_file_and_is_served() -> None:
    with tempfile.SpooledTemporaryFile() as file:
        file.write(DATA[:300])
        assert taken(file) == DATA[:300]
        file.write(b"more")
        file.seek(0)
        assert file.read() == DATA[:300] + b"more"


def test_a_file_in_memory_is_its_buffer() -> None:
    held = io.BytesIO(DATA)
    assert taken(held) == DATA
    held.write(bytes(30_000))  # it may grow again: nothing holds its buffer


def test_a_descriptor_is_a_number_of_any_type(path: Path) -> None:
    with path.open("rb") as file:
        assert taken(file.fileno()) == taken(np.int64(file.fileno())) == DATA
    for wrong in (-1, 1 << 30, 1 << 40):
        with pytest.raises(SourceTypeError, match="no descriptor"):
            resolve(wrong)
    with pytest.raises(SourceTypeError):
        resolve(True)


def _zipped(path: Path, stack: contextlib.ExitStack) -> IO[bytes]:
    with zipfile.ZipFile(path.with_suffix(".zip"), "w") as archive:
        archive.writestr("member", DATA)  # stored as it is
    return stack.enter_context(
        stack.enter_context(zipfile.ZipFile(path.with_suffix(".zip"))).open("member")
    )


def _tarred(path: Path, stack: contextlib.ExitStack) -> Any:
    with tarfile.open(path.with_suffix(".tar"), "w") as archive:
        archive.add(path, "member")
    member = stack.enter_context(tarfile.open(path.with_suffix(".tar"))).extractfile("member")
    return stack.enter_context(member) if member else None


class Upper(io.FileIO):
    """A raw file that reads other bytes than its descriptor."""

    def read(self, size: int | None = -1, /) -> bytes:
        return (super().read(-1 if size is None else size) or b"").upper()


class Rotated(io.BytesIO):
    """Memory that reads other bytes than it holds."""

    def read(self, size: int | None = -1, /) -> bytes:
        return super().read(size)[::-1]


class Foreign:
    """An object of a library that has a descriptor."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("rb")

    def fileno(self) -> int:
        return self._file.fileno()

    def close(self) -> None:
        self._file.close()


def _packed(
    open_it: Callable[..., Any],
) -> Callable[[Path, contextlib.ExitStack], Any]:
    def make(path: Path, stack: contextlib.ExitStack) -> Any:
        with open_it(f"{path}.packed", "wb") as file:
            file.write(DATA)
        return stack.enter_context(open_it(f"{path}.packed", "rb"))

    return make


def _pair(path: Path, stack: contextlib.ExitStack) -> Any:
    raws = [stack.enter_context(open(path, mode, 0)) for mode in ("rb", "r+b")]
    return io.BufferedRWPair(*raws)  # type: ignore[arg-type]


OTHERS: dict[str, Callable[[Path, contextlib.ExitStack], Any]] = {
    "gzip": _packed(gzip.open),
    "bz2": _packed(bz2.open),
    "lzma": _packed(lzma.open),
    "zip member": _zipped,
    "tar member": _tarred,
    "buffer of gzip": lambda path, stack: io.BufferedReader(_packed(gzip.open)(path, stack)),
    "text": lambda path, stack: stack.enter_context(path.open(encoding="latin-1")),
    "codecs": lambda path, stack: stack.enter_context(codecs.open(str(path), "r", "utf-16")),
    "temporary text": lambda _, stack: stack.enter_context(tempfile.NamedTemporaryFile("w+")),
    "spooled text": lambda _, stack: stack.enter_context(tempfile.SpooledTemporaryFile(mode="w+")),
    "socket": lambda _, stack: stack.enter_context(socket.socket()),
    "socket's file": lambda _, stack: stack.enter_context(
        stack.enter_context(socket.socket()).makefile("rb")
    ),
    "two files": _pair,
    "subclass of FileIO": lambda path, stack: stack.enter_context(Upper(path)),
    "subclass of BytesIO": lambda _, stack: stack.enter_context(Rotated(DATA)),
    "StringIO": lambda *_: io.StringIO("text"),
    "somebody else's": lambda path, stack: stack.enter_context(contextlib.closing(Foreign(path))),
}


@pytest.mark.filterwarnings("ignore:codecs.open:DeprecationWarning")
@pytest.mark.parametrize("kind", OTHERS)
def test_what_may_read_other_bytes_than_its_descriptor_is_refused(path: Path, kind: str) -> None:
    with contextlib.ExitStack() as stack:
        other = OTHERS[kind](path, stack)
        with pytest.raises(SourceTypeError) as caught:
            resolve(other)
    assert type(other).__qualname__ in caught.value.what
    assert "descriptor" in caught.value.cause or "text mode" in caught.value.cause
    assert "binary" in caught.value.cure or ".read()" in caught.value.cure


def test_the_cure_for_a_compressed_file_is_one(path: Path) -> None:
    with gzip.open(f"{path}.gz", "wb") as file:
        file.write(DATA)
    with gzip.open(f"{path}.gz") as file:
        assert taken(file.read()) == DATA
        assert taken(file.fileno()) == Path(f"{path}.gz").read_bytes()


@contextlib.contextmanager
def _pipe(kind: str) -> Iterator[Any]:
    if kind == "process":
        started = subprocess.Popen([sys.executable, "-c", ""], stdout=subprocess.PIPE)
        with started:
            yield started.stdout
    elif kind == "connection":
        ours, theirs = multiprocessing.Pipe()
        with ours, theirs:
            yield ours
    else:
        read, write = os.pipe()
        with open(read, "rb") as reader, open(write, "wb"):
            yield reader if kind == "file" else read


@pytest.mark.parametrize("kind", ["descriptor", "file", "process", "connection"])
def test_a_pipe_is_refused(kind: str) -> None:
    with _pipe(kind) as pipe, pytest.raises(SourceTypeError) as caught:
        resolve(pipe)
    assert caught.value.cure


def test_a_closed_file_is_refused(path: Path) -> None:
    with path.open("rb") as file:
        pass
    with pytest.raises(SourceTypeError, match="closed"):
        resolve(file)
    detached = path.open("rb")
    with detached.detach(), pytest.raises(SourceTypeError, match="detached"):
        resolve(detached)


def test_a_file_that_may_only_be_written_is_refused(path: Path) -> None:
    with path.open("ab") as file, pytest.raises(SourceError) as caught:
        resolve(file)
    assert "for reading" in caught.value.cure


def test_a_buffer_that_cannot_be_written_is_told() -> None:
    with open("/dev/full", "r+b", buffering=0) as raw:
        file = io.BufferedWriter(raw)
        file.write(b"never")
        with pytest.raises(SourceError, match="No space left"):
            resolve(file)
        with pytest.raises(OSError, match="No space left"):
            file.detach()


def test_an_offset_before_the_start_of_a_buffer_is_refused() -> None:
    assert taken(DATA, offset=5, length=10) == DATA[5:15]
    with pytest.raises(UsageError, match="negative"):
        resolve(DATA, offset=-5)
