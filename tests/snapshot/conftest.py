"""The real servers, each started once, and environments that reach them and nothing else.

What asks them is of the group "stores": one worker runs it, so that each server starts once.
"""

from __future__ import annotations

import gc
import os
import pathlib
import threading
import time
from collections.abc import Iterator

import pytest

from helpers.disks import disk_of_a_mebibyte
from helpers.folders import in_memory
from helpers.leaks import descriptors, opened_since
from snapshot.chunks import Fill, filling
from snapshot.servers import nginx, seaweed, swift
from snapshot.servers.nginx import Web
from snapshot.servers.ports import started
from snapshot.servers.s3 import S3
from snapshot.watched import Watched
from userfault.snapshot.errors import StoreError
from userfault.snapshot.stores.opening import open_objects

# No test may ask a metadata service, or use what the user of this machine has set up.
_NOWHERE = "http://127.0.0.1:9"


@pytest.fixture(scope="session")
def client_runtime() -> None:
    """The client library's threads and descriptors, which it starts once and keeps."""
    from userfault.snapshot.stores.remote import Patience, RemoteObjects

    with pytest.raises(StoreError, match="refused"):
        RemoteObjects.open(_NOWHERE, Patience(retries=0)).exists("x")


@pytest.fixture
def nothing_stays(client_runtime: None) -> Iterator[None]:  # noqa: ARG001
    """Fail the test where it leaves threads, or descriptors that do not go within seconds.

    The client library closes connections in threads of its own, a moment after the last use.
    """
    before, threads = descriptors(), _threads()
    yield
    assert _threads() <= threads
    end = time.monotonic() + 15
    while left := opened_since(before):
        gc.collect()
        assert time.monotonic() < end, f"descriptors left open: {left}"
        time.sleep(0.05)


def _threads() -> set[threading.Thread]:
    """Those that `threading` started.  Of others that logged something it keeps a dummy: for ever,
    up to Python 3.12."""
    return {each for each in threading.enumerate() if not isinstance(each, threading._DummyThread)}


@pytest.fixture
def no_credentials(monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path) -> None:
    """An environment that holds none."""
    for name in os.environ:
        if name.startswith(("AWS_", "AZURE_", "GOOGLE_", "USERFAULT_", "XDG_CACHE", "NETRC")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("AWS_METADATA_ENDPOINT", _NOWHERE)


@pytest.fixture(scope="session")
def seaweed_service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3]:
    """SeaweedFS."""
    with started(tmp_path_factory.mktemp("seaweed"), seaweed.running) as service:
        yield service


@pytest.fixture(scope="session")
def swift_service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3]:
    """OpenStack Swift."""
    with started(tmp_path_factory.mktemp("swift"), swift.running) as service:
        yield service


@pytest.fixture(scope="session")
def web(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Web]:
    """nginx."""
    with started(tmp_path_factory.mktemp("nginx"), nginx.running) as server:
        yield server


def _reach(service: S3, monkeypatch: pytest.MonkeyPatch) -> S3:
    for name, value in service.environment().items():
        monkeypatch.setenv(name, value)
    return service


@pytest.fixture
def seaweed_s3(
    no_credentials: None,  # noqa: ARG001  # before what this one sets
    seaweed_service: S3,
    monkeypatch: pytest.MonkeyPatch,
) -> S3:
    """SeaweedFS, reached by the environment."""
    return _reach(seaweed_service, monkeypatch)


@pytest.fixture
def swift_s3(
    no_credentials: None,  # noqa: ARG001
    swift_service: S3,
    monkeypatch: pytest.MonkeyPatch,
) -> S3:
    """Swift, reached by the environment."""
    return _reach(swift_service, monkeypatch)


@pytest.fixture(params=["seaweed", "swift"])
def s3(request: pytest.FixtureRequest) -> S3:
    """Each S3 service in turn."""
    found: S3 = request.getfixturevalue(f"{request.param}_s3")
    return found


@pytest.fixture
def prefix(request: pytest.FixtureRequest) -> str:
    """A place in a bucket or web folder that is this test's alone."""
    return "".join(c if c.isalnum() else "-" for c in request.node.name)


@pytest.fixture
def in_s3(seaweed_s3: S3, prefix: str) -> Fill:
    """Forty chunks in SeaweedFS."""
    return filling(open_objects(f"s3://{seaweed_s3.bucket}/{prefix}"))


@pytest.fixture
def in_web(web: Web, prefix: str, no_credentials: None) -> Fill:  # noqa: ARG001
    """Forty chunks behind nginx."""
    filled = filling(open_objects(web.root / prefix))
    return Fill(web.url(prefix), filled.chunks)


@pytest.fixture
def small_disk(tmp_path: pathlib.Path) -> Iterator[pathlib.Path]:
    """A file system of 1 MiB."""
    with disk_of_a_mebibyte(tmp_path / "disk") as folder:
        yield folder


@pytest.fixture
def store() -> Iterator[Watched]:
    with in_memory() as folder:
        yield Watched(folder / "store")
