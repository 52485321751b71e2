"""TLS: both sides show certificates, and whoever has none that is good is not served."""

from __future__ import annotations

import ssl
from pathlib import Path

import pytest

from serve.page_server.authority import Authority
from serve.page_server.peer import PAGE, Peer, page_server, pages
from userfault.kernel.errors import UsageError
from userfault.serve.page_server.tls import Tls, secured
from userfault.serve.peers import RefusedError

HEAP = 0x5500_0000_0000


def connected(address: str, tls: Tls, name: str = "127.0.0.1") -> Peer:
    context = tls.context(server=False)
    return Peer(address, wrap=lambda channel: secured(context, channel, 30, name))


def test_a_dump_and_a_restore_over_tls(tmp_path: Path) -> None:
    authority = Authority(tmp_path / "pki")
    ours, theirs = authority.certificate("ours"), authority.certificate("theirs")
    with page_server(tmp_path, address="0", tls=ours, into=f"{tmp_path}/store/d") as server:
        peer = connected(server.address, theirs)
        peer.open(1)
        peer.add(1, HEAP, pages(1, 500))
        assert peer.close() == 0
    with page_server(tmp_path, address="0", tls=ours, give=f"{tmp_path}/store/d") as server:
        peer = connected(server.address, theirs)
        assert peer.get(1, HEAP + PAGE, 200) == pages(1, 201)[PAGE:]
        assert peer.close() == 0


@pytest.mark.parametrize("whose", ["another authority", "nobody", "no TLS"])
def test_who_has_no_good_certificate_is_not_served(
    tmp_path: Path, whose: str, capfd: pytest.CaptureFixture[str]
) -> None:
    authority, other = Authority(tmp_path / "pki"), Authority(tmp_path / "other")
    ours, good = authority.certificate("ours"), authority.certificate("good")
    bad = other.certificate("bad")
    bad = Tls(bad.cert, bad.key, ours.cacert)
    with page_server(tmp_path, address="0", tls=ours, into=f"{tmp_path}/store/d") as server:
        if whose == "no TLS":
            peer = Peer(server.address)
            peer.send(peer.head(4, to=1 << 8 | 1))
            assert peer.ended()
        else:
            context = bad.context(server=False)
            if whose == "nobody":
                context = ssl.create_default_context(cafile=ours.cacert)
            peer = Peer(
                server.address, wrap=lambda channel: secured(context, channel, 30, "127.0.0.1")
            )
            with pytest.raises((OSError, ConnectionError)):  # TLS 1.3: at the first answer
                peer.open(1)
            peer.socket.close()
        peer = connected(server.address, good)
        peer.open(1)
        peer.add(1, HEAP, pages(1, 1))
        assert peer.close() == 0
    log = capfd.readouterr().err
    assert "refused: a page server's peer" in log
    if whose != "no TLS":
        assert "certificate" in log


def test_a_client_takes_no_server_of_another_name_or_authority(tmp_path: Path) -> None:
    authority, other = Authority(tmp_path / "pki"), Authority(tmp_path / "other")
    ours = authority.certificate("ours", "10.0.0.9")
    good, foreign = authority.certificate("good"), other.certificate("foreign")
    any_name = Tls(good.cert, good.key, good.cacert, verify_name=False)
    with page_server(tmp_path, address="0", tls=ours, into=f"{tmp_path}/store/d") as server:
        with pytest.raises(RefusedError, match=r"127\.0\.0\.1.*--tls-no-cn-verify"):
            connected(server.address, good)
        with pytest.raises(RefusedError, match="certificate"):
            connected(server.address, foreign)
        peer = connected(server.address, any_name)
        assert peer.open(1) == 0
        peer.socket.close()


def test_files_that_cannot_be_used_are_named(tmp_path: Path) -> None:
    good = Authority(tmp_path / "pki").certificate("good")
    with pytest.raises(UsageError, match="nowhere"):
        Tls(f"{tmp_path}/nowhere", good.key, good.cacert).context(server=True)
    with pytest.raises(UsageError, match="nowhere"):
        Tls(good.cert, good.key, f"{tmp_path}/nowhere").context(server=True)
    (tmp_path / "rubbish").write_text("no PEM")
    with pytest.raises(UsageError, match="TLS"):
        Tls(good.cert, f"{tmp_path}/rubbish", good.cacert).context(server=False)
    with pytest.raises(UsageError):
        Tls(good.cert, good.key, good.cacert, f"{tmp_path}/rubbish").context(server=False)
