"""CRIU itself at the other end, on another host: dumps, restores, connections that are cut."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from helpers.criu import dump, need_criu, restored
from helpers.hosts import two_hosts
from helpers.pipes import large_pipes
from helpers.waiting import wait_until
from serve.page_server.authority import Authority, as_options
from serve.page_server.peer import page_server
from serve.page_server.remembering import Rememberer
from userfault.api.daemon import replace
from userfault.serve.talking import Line
from userfault.snapshot.stores.opening import open_objects

PORT = "7070"


@contextlib.contextmanager
def serving(
    *arguments: str, inside: Sequence[str] = (), log: Path = Path(os.devnull)
) -> Iterator[subprocess.Popen[str]]:
    """`userfault serve` with these options; it has to end in peace."""
    command = [*inside, sys.executable, "-m", "userfault", "serve", *arguments]
    with (
        log.open("w") as told,
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=told, text=True) as process,
    ):
        assert process.stdout is not None
        try:
            while (line := process.stdout.readline()) != "ready\n":
                assert line, "it did not come up"
            yield process
        finally:
            if process.poll() is None:
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
                wait_until((work / "lazy-pages.socket").exists, 60)
                with restored([*there.inside, *criu], images, work):
                    assert program.said() == ["True", "True"]
                    assert lazy.wait(timeout=60) == 0


@pytest.mark.timeout(600)
def test_a_dump_into_our_store_is_restored_by_our_daemon(tmp_path: Path) -> None:
    criu = need_criu()
    images, work = tmp_path / "images", tmp_path / "work"
    images.mkdir()
    work.mkdir()
    with remembering(tmp_path / "program") as program:
        with page_server(tmp_path, address="0", into=f"{tmp_path}/store/d") as server:
            dump(criu, program.pid, images, *to(*server.address.split(":")))
        export = [sys.executable, "-m", "userfault", "export", "--criu", "--lazy"]
        subprocess.run([*export, f"{tmp_path}/store/d", str(images)], check=True)
        with (
            serving("--criu", f"{work}={tmp_path}/store/d"),
            restored(criu, images, work),
        ):
            program.go()
            assert program.said() == ["True", "True"]


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


@contextlib.contextmanager
def frozen(
    criu: list[str], pid: int, images: Path, *more: str
) -> Iterator[subprocess.Popen[bytes]]:
    """`criu dump --lazy-pages`, once it waits for somebody who asks for pages."""
    ready, told = os.pipe()
    command = [*criu, "dump", "--lazy-pages", "-t", str(pid), "-D", str(images)]
    with subprocess.Popen(
        [*command, "-o", "dump.log", "--status-fd", str(told), *more], pass_fds=[told]
    ) as process:
        os.close(told)
        try:
            with open(ready, "rb") as status:
                assert status.read(1) == b"\0", (images / "dump.log").read_text()[-2000:]
            yield process
        finally:
            process.kill()


@pytest.mark.timeout(600)
def test_a_program_is_pulled_from_another_host_where_it_stands_still(tmp_path: Path) -> None:
    """Over TLS, from `criu dump --lazy-pages`; while pages are missing our worker is killed, and
    then all of our processes are replaced."""
    criu = need_criu()
    images, work = tmp_path / "images", tmp_path / "work"
    images.mkdir()
    work.mkdir()
    with two_hosts() as (here, there), large_pipes():
        authority = Authority(tmp_path / "pki")
        mine = as_options(authority.certificate("mine", here.address))
        yours = as_options(authority.certificate("yours", there.address))
        # CRIU's server compares a client's certificate with its own address, too.
        port = ["--address", here.address, "--port", PORT, "--tls-no-cn-verify"]
        with (
            remembering(tmp_path / "program", *here.inside) as program,
            frozen([*here.inside, *criu], program.pid, images, *port, *mine) as dumping,
            serving(
                *("--criu", f"{work}=criu://{here.address}:{PORT}{images}", *yours),
                *("--control", f"{tmp_path}/control", "--no-background"),
                inside=there.inside,
                log=tmp_path / "log",
            ) as server,
            restored([*there.inside, *criu], images, work),
        ):
            assert dumping.poll() is None  # it waits for the pages that nobody has touched
            killed = ask(tmp_path, "status")["processes"]["worker"]
            os.kill(killed, signal.SIGKILL)
            wait_until(lambda: ask(tmp_path, "status")["processes"]["worker"] != killed, 60)
            line = Line.to(f"{tmp_path}/control")
            replace(line)
            line.close()
            program.go()
            assert program.said() == ["True", "True"]
            ask(tmp_path, "drain")
            assert server.wait(timeout=60) == 0
            assert dumping.wait(timeout=60) == 0


@pytest.mark.timeout(600)
def test_a_program_whose_pages_do_not_come_gets_a_signal_and_no_zeros(tmp_path: Path) -> None:
    criu = need_criu()
    images, work = tmp_path / "images", tmp_path / "work"
    images.mkdir()
    work.mkdir()
    served = ["--criu", f"{work}=criu://127.0.0.1:{PORT}{images}", "--no-background"]
    served += ["--page-server-timeout", "0.2"]
    log = tmp_path / "log"
    with (
        large_pipes(),
        remembering(tmp_path / "program") as program,
        frozen(criu, program.pid, images, "--address", "127.0.0.1", "--port", PORT) as dumping,
        serving(*served, log=log),
        restored(criu, images, work),
    ):
        for pid in program.pids:  # as a host goes that loses its power
            os.kill(pid, signal.SIGKILL)
        dumping.kill()
        dumping.wait()
        program.go()
        wait_until(lambda: "given up" in log.read_text(), 60)
        assert not list(program.folder.glob("said-*"))


def ask(folder: Path, command: str) -> dict[str, Any]:
    line = Line.to(f"{folder}/control")
    try:
        return line.ask(command)
    finally:
        line.close()


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
