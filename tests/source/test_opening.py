"""What a name names is opened without waiting for anybody, or is refused."""

from __future__ import annotations

import fcntl
import os
import socket
from pathlib import Path

import pytest

from helpers import child
from source.taken import taken
from userfault import SourceError, SourceTypeError, UserfaultError
from userfault.snapshot.errors import FormatError
from userfault.snapshot.inputs import criu_images, firecracker
from userfault.source import opening
from userfault.source.spec import resolve


def made(folder: Path, kind: str) -> Path:
    """Something at a path that is no file."""
    path = folder / "thing"
    if kind == "FIFO":
        os.mkfifo(path)
    elif kind == "socket":
        with socket.socket(socket.AF_UNIX) as here:
            here.bind(str(path))
    elif kind == "folder":
        path.mkdir()
    elif kind == "link to a FIFO":
        os.mkfifo(folder / "fifo")
        path.symlink_to("fifo")
    else:
        return Path("/dev/zero")
    return path


KINDS = ["FIFO", "socket", "folder", "link to a FIFO", "device"]


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_no_file_is_refused_at_once(tmp_path: Path, kind: str) -> None:
    """A FIFO that nobody writes to would keep open(2) waiting."""
    path = made(tmp_path, kind)
    with pytest.raises(SourceTypeError, match=f"it is a.*{kind.rpartition(' ')[2]}") as caught:
        resolve(path)
    assert str(path) in caught.value.what
    assert "copy it to a file" in caught.value.cure


@pytest.mark.parametrize("kind", KINDS)
def test_the_state_of_firecracker_is_not_read_from_what_is_no_file(
    tmp_path: Path, kind: str
) -> None:
    assert firecracker.state_of(str(made(tmp_path, kind))) is None


def test_a_file_of_a_dump_that_is_none_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pstree.img")
    with pytest.raises(FormatError, match="FIFO"):
        criu_images.tasks(str(tmp_path))


def test_what_became_a_fifo_meanwhile_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The look before and the opening are two calls."""
    path = tmp_path / "thing"
    path.write_bytes(b"x")
    looked = os.stat(path)
    path.unlink()
    os.mkfifo(path)
    monkeypatch.setattr(opening.os, "stat", lambda *_: looked)  # type: ignore[attr-defined]
    with pytest.raises(opening.NoFileError, match="FIFO"):
        opening.open_file(path)


def test_a_file_with_a_lease_is_waited_for(tmp_path: Path) -> None:
    """Whoever has a lease (a file server) is asked for it, and O_NONBLOCK would not wait."""
    path = tmp_path / "leased"
    path.write_bytes(b"bytes")
    assert child.run("source.scenes:opens_a_leased_file", str(path)) == "bytes"


def test_descriptors_that_are_opened_block(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"x")
    fd = opening.open_file(path)
    try:
        assert os.get_blocking(fd)
        assert fcntl.fcntl(fd, fcntl.F_GETFD) & fcntl.FD_CLOEXEC
    finally:
        os.close(fd)


@pytest.mark.parametrize("name", ["nul\0inside", "lone \ud800 surrogate"])
def test_what_no_file_can_be_called_is_refused(name: str) -> None:
    with pytest.raises(SourceError, match="cannot open"):
        resolve(name)


@pytest.mark.parametrize(
    "name", [b"caf\xe9.mem", b"new\nline", "n\u00e4me \u4e2d".encode(), b"-dash", b"pkg.mod:func"]
)
def test_any_name_that_linux_takes_is_opened(tmp_path: Path, name: bytes) -> None:
    path = os.fsencode(tmp_path) + b"/" + name
    with open(path, "w+b") as file:
        file.write(b"bytes")
        file.flush()
        assert taken(os.fsdecode(path)) == taken(file) == b"bytes"
    gone = os.fsdecode(path + b".gone")
    with pytest.raises(UserfaultError) as caught:
        resolve(gone)
    assert str(caught.value).isprintable()
