"""Memory that is restored from a remote store: the image that was packed, or an error."""

from __future__ import annotations

import pathlib
import shutil
import time
from collections.abc import Iterator

import pytest

import userfault
from helpers.pages import PAGE
from helpers.stores import memory, store
from snapshot.servers import faults
from snapshot.servers.faults import Proxy
from snapshot.servers.nginx import Web
from snapshot.servers.s3 import S3
from userfault import LazyMemory, Policy, lazy
from userfault.linux.libc import read_memory
from userfault.snapshot.inputs.file import FileInput
from userfault.snapshot.packing.pack import pack
from userfault.snapshot.stores.opening import open_objects

pytestmark = [pytest.mark.usefixtures("nothing_stays"), pytest.mark.xdist_group("stores")]

PAGES = 600
DEMAND = Policy(background=False, retries=0)


@pytest.fixture(scope="module")
def image() -> bytes:
    return memory(PAGES, seed=21)


@pytest.fixture
def behind_nginx(web: Web, prefix: str, no_credentials: None, image: bytes) -> str:  # noqa: ARG001
    """The folder, below nginx's, of a store with the image."""
    store(web.root / prefix, "one", image)
    return prefix


def test_an_image_in_an_s3_service_is_restored_by_faults_and_in_the_background(
    s3: S3, prefix: str, image: bytes, tmp_path: pathlib.Path
) -> None:
    (tmp_path / "image").write_bytes(image)
    source = FileInput(tmp_path / "image")
    url = f"s3://{s3.bucket}/{prefix}"
    pack(open_objects(url), "one", source)
    source.close()
    for policy in (DEMAND, Policy()):
        with lazy(f"{url}/one", policy=policy, cache="") as mapped:
            for page in range(0, PAGES, 37):
                assert mapped[page * PAGE : (page + 1) * PAGE] == image[page * PAGE :][:PAGE]
            mapped.complete()
            assert mapped[:] == image


@pytest.mark.parametrize("kind", ["shmem", "shmem-private"])
def test_an_image_behind_a_web_server_is_restored(
    web: Web, behind_nginx: str, image: bytes, kind: str
) -> None:
    with lazy(web.url(f"{behind_nginx}/one"), memory=kind, cache="") as mapped:
        mapped.complete()
        assert mapped[:] == image


def chunks(folder: pathlib.Path) -> set[str]:
    """The names of those that are in a folder, whole."""
    return {each.name for each in folder.glob("*/*")}


def test_what_is_in_the_cache_is_restored_without_the_store(
    web: Web, behind_nginx: str, image: bytes, tmp_path: pathlib.Path
) -> None:
    address, cache = web.url(f"{behind_nginx}/one"), str(tmp_path / "cache")
    stored = web.root / behind_nginx / "chunks"
    with lazy(address, cache=cache) as mapped:
        mapped.complete()
        deadline = time.monotonic() + 60  # what is read is kept later, and not by a pager that ends
        while chunks(pathlib.Path(cache, "chunks")) != chunks(stored):
            assert time.monotonic() < deadline
            time.sleep(0.01)
    shutil.rmtree(stored)
    with userfault.Pager() as another, lazy(address, cache=cache, pager=another) as mapped:
        mapped.complete()
        assert mapped[:] == image


@pytest.fixture
def proxy(web: Web) -> Iterator[Proxy]:
    """In between, without a fault yet."""
    found = Proxy(web.port)
    yield found
    found.close()


def page_of(mapped: LazyMemory, page: int) -> bytes:
    """A page, touched without the GIL: the proxy is a thread of this process."""
    return read_memory(mapped.address + page * PAGE, PAGE)


@pytest.mark.parametrize("fault", [faults.wrong, faults.truncated, faults.reset, faults.refused])
def test_a_store_whose_answers_are_broken_now_and_then_gives_the_right_bytes(
    web: Web, behind_nginx: str, image: bytes, proxy: Proxy, fault: faults.Fault
) -> None:
    url = web.url(f"{behind_nginx}/one", proxy.port)
    with lazy(url, policy=DEMAND, cache="") as mapped:
        for page in range(0, PAGES, 97):
            proxy.hit(fault, None, fault)
            assert page_of(mapped, page) == image[page * PAGE :][:PAGE]
        proxy.hit(None, fault, None, None, fault)
        mapped.complete()
        assert mapped[:] == image


def test_a_second_store_stands_in_for_one_that_has_gone(
    web: Web, behind_nginx: str, image: bytes, proxy: Proxy, tmp_path: pathlib.Path
) -> None:
    second = store(tmp_path / "second", "one", image).parent
    url = web.url(f"{behind_nginx}/one", proxy.port)
    with lazy(url, policy=DEMAND, cache="", store2=str(second)) as mapped:
        assert page_of(mapped, 0) == image[:PAGE]
        proxy.vanish()
        mapped.complete()
        assert mapped[:] == image


def test_credentials_in_a_url_are_refused_and_not_repeated(web: Web) -> None:
    address = web.url("store/one").replace("://", "://reader:the-secret@")
    with pytest.raises(userfault.UsageError, match="has credentials in it") as raised:
        lazy(address)
    assert "the-secret" not in str(raised.value)
