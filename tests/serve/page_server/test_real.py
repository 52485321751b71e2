"""CRIU itself at the other end, on another host: dumps, restores, connections that are cut."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from helpers.criu import dump, need_criu, restored
from helpers.hosts import two_hosts
from serve.page_server.authority import Authority, as_options
from serve.page_server.peer import page_server
from serve.page_server.rememberer import Rememberer
from userfault.snapshot.stores.opening import open_objects

PORT = "7070"


@contextlib.contextmanager
def serving(*arguments: str, inside: Sequence[str] = ()) -> Iterator[subprocess.Popen[str]]:
    """`userfault serve` with these options; it has to end in peace."""
    command = [*inside, sys.executable, "-m", "userfault", "serve", *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            while (line := process.stdout.readline()) != "ready\n":
                assert line, "it did not come up"
            yield process
        finally:
            process.terminate()
        assert process.wait(timeout=60) == 0


@contextlib.contextmanager
def remembering(folder: Path, *inside: str) -> Iterator[Rememberer]:
    program = Rememberer(folder, *inside)
    try:
        yield program
    finally:
        program.end()


def to(address: str, port: str) -> list[str]:
    return ["--page-server", "--address", address, "--port", port]


@pytest.mark.timeout(600)  # the first of its tests loads packages
def test_a_dump_into_our_store_is_restored_by_criu_from_our_server(tmp_path: Path) -> None:
    """All of it over TLS, between two hosts."""
    criu = need_criu()
    images, work = tmp_path / "images", tmp_path / "work"
    images.mkdir()
    work.mkdir()
    with two_hosts() as (here, there):
        authority = Authority(tmp_path / "pki")
        mine = authority.certificate("mine", here.address)
        yours = authority.certificate("yours", there.address)
        with remembering(tmp_path / "program", *here.inside) as program:
            server = ["--page-server", f"{there.address}:{PORT}", *as_options(yours)]
            with serving(*server, "--pages-to", f"{tmp_path}/store/d", inside=there.inside):
                ordered = [*here.inside, *criu]
                dump(ordered, program.pid, images, *to(there.address, PORT), *as_options(mine))
            objects = open_objects(f"{tmp_path}/store")
            assert [each.key for each in objects.list("snapshots/")] == ["snapshots/d"]
            assert not list(images.glob("pages-*"))
            export = [sys.executable, "-m", "userfault", "export", "--criu", "--lazy"]
            subprocess.run([*export, f"{tmp_path}/store/d", str(images)], check=True)
            server = ["--page-server", f"{here.address}:{PORT}", *as_options(mine)]
            lazily = ["lazy-pages", "-D", str(images), "-W", str(work), "-o", "lazy.log"]
            lazily += [*to(here.address, PORT), *as_options(yours)]
            with (
                serving(*server, "--pages-from", f"{tmp_path}/store/d", inside=here.inside),
                subprocess.Popen([*there.inside, *criu, *lazily]) as lazy,
            ):
                program.go()
                wait_for(work / "lazy-pages.socket")
                with restored([*there.inside, *criu], images, work):
                    assert program.said() == ["True", "True"]
                    assert lazy.wait(timeout=60) == 0


class Cutting:
    """A wire to `port` that is cut when so many bytes have gone over it."""

    def __init__(self, address: str, most: int) -> None:
        host, port = address.split(":")
        self._to = host, int(port)
        self._left = most
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port = str(self._listening.getsockname()[1])
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        come, _ = self._listening.accept()
        with come, socket.create_connection(self._to) as on:
            back = threading.Thread(target=self._back, args=(on, come))
            back.start()
            while self._left > 0 and (data := come.recv(min(self._left, 1 << 16))):
                on.sendall(data)
                self._left -= len(data)
            for each in (come, on):
                each.shutdown(socket.SHUT_RDWR)
            back.join()

    def _back(self, on: socket.socket, come: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := on.recv(1 << 16):
                come.sendall(data)

    def close(self) -> None:
        self._thread.join()
        self._listening.close()


@pytest.mark.timeout(600)
def test_of_a_dump_whose_connection_is_cut_nothing_is_stored(tmp_path: Path) -> None:
    criu = need_criu()
    images = tmp_path / "images"
    images.mkdir()
    with (
        remembering(tmp_path / "program") as program,
        page_server(tmp_path, address="0", into=f"{tmp_path}/store/d") as server,
    ):
        wire = Cutting(server.address, 3 << 20)
        through = to("127.0.0.1", wire.port)
        done = subprocess.run(
            [*criu, "dump", "-t", str(program.pid), "-D", str(images), *through],
            capture_output=True,
            timeout=100,
            check=False,
        )
        wire.close()
        assert done.returncode != 0
        objects = open_objects(f"{tmp_path}/store")
        server.wait()
        assert list(objects.list("snapshots/")) == []
        program.go()  # it goes on: nothing has become of it
        assert program.said() == ["True", "True"]
        for each in program.folder.glob("said-*"):
            os.kill(int(each.name[5:]), signal.SIGKILL)


def wait_for(path: Path) -> None:
    deadline = time.monotonic() + 60
    while not path.exists():
        assert time.monotonic() < deadline, f"{path} does not come"
        time.sleep(0.01)
