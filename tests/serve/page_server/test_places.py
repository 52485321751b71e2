"""Where a page server listens: addresses, paths, sockets that are open already."""

from __future__ import annotations

import os
import socket
import stat
from pathlib import Path

import pytest

from cli.commands import userfault
from serve.page_server.peer import Peer, page_server, pages
from userfault.kernel.errors import UsageError
from userfault.serve.page_server.listening import PageServer, Settings
from userfault.serve.systemd import passed

HEAP = 0x5500_0000_0000


def dumped(peer: Peer) -> None:
    peer.open(1)
    peer.add(1, HEAP, pages(1, 2))
    assert peer.close() == 0


def test_a_socket_at_a_path_is_its_owners_alone_and_goes_with_the_server(tmp_path: Path) -> None:
    with page_server(tmp_path, into=f"{tmp_path}/store/d") as server:
        assert stat.S_IMODE(os.stat(server.address).st_mode) == 0o600
        dumped(Peer(server.address))
    assert not os.path.exists(server.address)


def test_a_port_is_this_machines_unless_a_host_is_named(tmp_path: Path) -> None:
    with page_server(tmp_path, address="0", into=f"{tmp_path}/store/d") as server:
        assert server.address.startswith("127.0.0.1:")
        dumped(Peer(server.address))


def test_a_socket_that_listens_already_is_used(tmp_path: Path) -> None:
    listening = socket.create_server(("127.0.0.1", 0))
    place = "{}:{}".format(*listening.getsockname())
    with page_server(tmp_path, address=f"fd:{listening.detach()}", into=f"{tmp_path}/store/d"):
        dumped(Peer(place))


def test_a_socket_that_is_connected_already_is_the_one_peer(tmp_path: Path) -> None:
    ours, theirs = socket.socketpair()
    with page_server(tmp_path, address=f"fd:{ours.detach()}", into=f"{tmp_path}/store/d") as server:
        dumped(Peer("fd", channel=theirs))
        server.wait()


def test_systemds_sockets_of_that_name_are_left_to_the_option(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("LISTEN_PID", str(os.getpid()))
    monkeypatch.setenv("LISTEN_FDS", "1")
    monkeypatch.setenv("LISTEN_FDNAMES", "page-server")
    with socket.create_server(("127.0.0.1", 0)) as listening:
        before = os.dup(3) if os.path.exists("/proc/self/fd/3") else -1
        try:
            os.dup2(listening.fileno(), 3)
            assert passed() == []
        finally:
            if before >= 0:
                os.dup2(before, 3)
                os.close(before)
            else:
                os.close(3)


@pytest.mark.parametrize(
    "address", ["", "host", "host:", "1.2.3.4:99999", "fd:x", "fd:999", "no.such.host.invalid:1"]
)
def test_what_is_no_place_is_refused(tmp_path: Path, address: str) -> None:
    with pytest.raises(UsageError):
        PageServer(Settings(address, into=f"{tmp_path}/store/d"))


@pytest.mark.parametrize("into", ["name", "/store/", "/store/bad name", "/store/{m}"])
def test_a_name_that_no_snapshot_can_have_is_refused(into: str) -> None:
    with pytest.raises(UsageError):
        PageServer(Settings("0", into=into))


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--pages-to", "/s/n"], "--page-server"),
        (["--page-server", "0"], "--pages-to"),
        (["--criu", "/tmp=criu://nowhere/x"], "port"),
        (["--criu", "/tmp=criu://127.0.0.1:1/tmp", "--criu-version", "new"], "version"),
    ],
)
def test_options_that_do_not_go_together_are_refused(options: list[str], says: str) -> None:
    done = userfault("serve", *options)
    assert done.returncode == 2
    assert says in done.stderr
