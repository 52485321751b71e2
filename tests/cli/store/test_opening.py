"""A name on the command line that is no file is refused at once; only an order may be a stream."""

from __future__ import annotations

import fcntl
import os
import socket
import struct
import subprocess
import termios
import time
from pathlib import Path

import pytest

from cli.commands import command, environment, userfault
from helpers.stores import memory, store


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """An image of 200 pages."""
    path = tmp_path / "image"
    path.write_bytes(memory(200))
    return path


def _waiting(pipe: int) -> int:
    """Bytes in a pipe."""
    return int(struct.unpack("i", fcntl.ioctl(pipe, termios.FIONREAD, bytes(4)))[0])


def test_the_order_may_come_through_a_pipe_of_the_shell(tmp_path: Path, image: Path) -> None:
    """<(...) names a pipe that is open already."""
    order, given = os.pipe()
    os.write(given, b"7\n3-5  # a comment\n\n1")
    os.close(given)
    with open(order, "rb"):
        pack = command("pack", str(image), f"{tmp_path}/store/one", "--order", f"/dev/fd/{order}")
        subprocess.run(pack, env=environment(), pass_fds=[order], check=True, timeout=60)
    refused = userfault("pack", str(image), f"{tmp_path}/store/two", "--order", "/dev/null")
    assert refused.returncode == 0  # an order of no pages


def test_the_order_may_come_through_a_fifo_that_has_a_writer(tmp_path: Path, image: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    given = os.open(fifo, os.O_RDWR)
    try:
        os.write(given, b"7\n3\n")
        pack = command("pack", str(image), f"{tmp_path}/store/one", "--order", str(fifo))
        packing = subprocess.Popen(pack, env=environment())
        deadline = time.monotonic() + 60
        while _waiting(given):
            assert packing.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.01)
    finally:
        os.close(given)
    assert packing.wait(60) == 0


@pytest.mark.parametrize("kind", ["FIFO", "socket", "folder", "device", "image"])
def test_an_order_that_is_no_list_is_refused_at_once(
    tmp_path: Path, image: Path, kind: str
) -> None:
    path = tmp_path / "order"
    if kind == "FIFO":
        os.mkfifo(path)
    elif kind == "socket":
        with socket.socket(socket.AF_UNIX) as here:
            here.bind(str(path))
    elif kind == "folder":
        path.mkdir()
    else:
        path = Path("/dev/zero") if kind == "device" else image
    done = userfault("pack", str(image), f"{tmp_path}/store/one", "--order", str(path))
    assert done.returncode == 2, done.stderr
    assert "--order" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "store").exists()


@pytest.mark.parametrize("kind", ["FIFO", "device"])
def test_an_image_or_an_output_that_is_no_file_is_refused_at_once(
    tmp_path: Path, image: Path, kind: str
) -> None:
    path = "/dev/zero" if kind == "device" else f"{tmp_path}/fifo"
    if kind == "FIFO":
        os.mkfifo(path)
    one = store(tmp_path / "store", "one", memory(20))
    for arguments in (
        ("pack", path, f"{one}-new"),
        ("pack", str(image), f"{one}-new", "--vmstate", path),
        ("export", str(one), path),
    ):
        done = userfault(*arguments)
        assert done.returncode == 2, (arguments, done.stderr)
        assert "cure:" in done.stderr
