"""Whatever goes wrong between a reader and a real server: right bytes or an error that says what.

Never wrong bytes, and never a wait without an end.
"""

from __future__ import annotations

import pathlib
import threading
import time
from collections.abc import Iterator

import pytest

from snapshot.chunks import Fill
from snapshot.servers import faults
from snapshot.servers.faults import Fault, Proxy
from snapshot.servers.nginx import Web
from snapshot.servers.s3 import S3
from userfault.snapshot.errors import StoreError
from userfault.snapshot.serving.reading import ChunkReader
from userfault.snapshot.stores.objects import Objects
from userfault.snapshot.stores.opening import open_objects
from userfault.snapshot.stores.remote import Patience, RemoteObjects

pytestmark = [pytest.mark.usefixtures("nothing_stays"), pytest.mark.xdist_group("stores")]

DEADLINE = 4.0
# A machine under load may be late, but not by this much.
AT_MOST = 45

HASTY = Patience(
    connect=1, stall=0.5, request=3, retries=3, first_pause=0.01, longest_pause=0.05, retry_within=3
)

FAULTS: dict[str, Fault] = {
    "refused": faults.refused,
    "truncated": faults.truncated,
    "reset": faults.reset,
    "wrong": faults.wrong,
    "foreign": faults.foreign,
    "nonsense": faults.nonsense,
    "silent": faults.silent(5),
}


class Broken:
    """A store behind a proxy, its chunks, and readers of it."""

    def __init__(self, proxy: Proxy, url: str, filled: Fill) -> None:
        self.proxy = proxy
        self.url = url
        self.chunks = filled.chunks
        self.direct = filled.url
        self._readers: list[ChunkReader] = []

    def objects(self) -> Objects:
        return RemoteObjects.open(self.url, HASTY)

    def reader(self, *more: Objects, deadline: float = 20) -> ChunkReader:
        reader = ChunkReader([self.objects(), *more], deadline=deadline)
        self._readers.append(reader)
        return reader

    def close(self) -> None:
        for reader in self._readers:
            reader.close()
        self.proxy.close()


@pytest.fixture(params=["web", "s3"])
def broken(
    request: pytest.FixtureRequest, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Broken]:
    """nginx and SeaweedFS, each behind the proxy."""
    filled: Fill = request.getfixturevalue(f"in_{request.param}")
    if request.param == "web":
        web: Web = request.getfixturevalue("web")
        proxy = Proxy(web.port)
        url = web.url(prefix, proxy.port)
    else:
        service: S3 = request.getfixturevalue("seaweed_s3")
        proxy = Proxy(service.port)
        url = f"s3://{service.bucket}/{prefix}"
        for name, value in service.environment(proxy.port).items():
            monkeypatch.setenv(name, value)
    made = Broken(proxy, url, filled)
    try:
        yield made
    finally:
        made.close()


@pytest.mark.parametrize("urgent", [False, True])
@pytest.mark.parametrize("fault", FAULTS)
def test_one_bad_answer_is_overcome(broken: Broken, fault: str, urgent: bool) -> None:
    reader = broken.reader()
    for chunk in broken.chunks[:3]:
        broken.proxy.hit(FAULTS[fault])
        assert reader.chunk(*chunk.wanted, urgent=urgent) == chunk.data


@pytest.mark.parametrize("fault", FAULTS)
def test_bad_answers_without_end_are_an_error_in_time(broken: Broken, fault: str) -> None:
    reader = broken.reader(deadline=DEADLINE)
    chunk = broken.chunks[0]
    broken.proxy.hit(always=FAULTS[fault])
    began = time.monotonic()
    with pytest.raises(StoreError) as caught:
        reader.chunk(*chunk.wanted, urgent=True)
    assert time.monotonic() - began < AT_MOST
    text = str(caught.value)
    assert chunk.digest.hex()[:16] in text
    assert broken.url in text
    assert "userfault verify" in text
    broken.proxy.hit()
    assert reader.chunk(*chunk.wanted) == chunk.data


@pytest.mark.parametrize("fault", ["wrong", "foreign"])
def test_wrong_bytes_are_counted_and_named(broken: Broken, fault: str) -> None:
    reader = broken.reader()
    broken.proxy.hit(always=FAULTS[fault])
    with pytest.raises(StoreError, match="digest"):
        reader.chunk(*broken.chunks[0].wanted)
    assert reader.counts[0].wrong == 3


def test_of_many_chunks_read_in_advance_over_a_bad_line_none_is_wrong(broken: Broken) -> None:
    reader = broken.reader()
    every = [fault for fault in FAULTS.values() for _ in (1, 2)]
    broken.proxy.hit(*every)
    reader.ahead([chunk.wanted for chunk in broken.chunks])
    for chunk in broken.chunks:
        assert reader.chunk(*chunk.wanted) == chunk.data


def test_a_slow_line_delivers(broken: Broken) -> None:
    reader = broken.reader()
    broken.proxy.hit(always=faults.trickled(5, 0.02))
    for chunk in broken.chunks[:3]:
        assert reader.chunk(*chunk.wanted) == chunk.data


def test_an_urgent_read_that_is_late_is_asked_for_twice(broken: Broken) -> None:
    reader = broken.reader()
    for chunk in broken.chunks[:20]:
        assert reader.chunk(*chunk.wanted, urgent=True) == chunk.data
    before = reader.counts[0].hedges_won
    broken.proxy.hit(faults.silent(5))
    chunk = broken.chunks[20]
    assert reader.chunk(*chunk.wanted, urgent=True) == chunk.data
    assert reader.counts[0].hedges_won == before + 1


def test_a_read_that_is_not_urgent_is_not_asked_for_twice(broken: Broken) -> None:
    reader = broken.reader()
    broken.proxy.hit(*[faults.slow(0.3)] * 3)
    for chunk in broken.chunks[:3]:
        assert reader.chunk(*chunk.wanted) == chunk.data
    assert reader.counts[0].hedges == 0


def test_a_slow_service_is_not_asked_twice_for_everything(broken: Broken) -> None:
    reader = broken.reader()
    broken.proxy.hit(always=faults.slow(0.15))
    for chunk in broken.chunks[:30]:
        assert reader.chunk(*chunk.wanted, urgent=True) == chunk.data
    assert reader.counts[0].hedges <= 5 + 30 * 0.1 + 1


def test_a_read_in_advance_that_becomes_urgent_is_asked_for_twice(broken: Broken) -> None:
    reader = broken.reader()
    broken.proxy.hit(faults.silent(5))
    chunk = broken.chunks[0]
    reader.ahead([chunk.wanted])
    assert reader.chunk(*chunk.wanted, urgent=True) == chunk.data


def test_a_server_that_vanishes_in_the_middle_is_an_error_in_time(broken: Broken) -> None:
    reader = broken.reader()
    broken.proxy.hit(always=faults.slow(0.2))
    reader.ahead([chunk.wanted for chunk in broken.chunks])
    for chunk in broken.chunks[:5]:
        assert reader.chunk(*chunk.wanted) == chunk.data
    broken.proxy.vanish()
    told = []
    for chunk in broken.chunks[5:]:
        began = time.monotonic()
        try:
            assert reader.chunk(*chunk.wanted, urgent=True) == chunk.data
        except StoreError as error:
            told.append(str(error))
        assert time.monotonic() - began < AT_MOST
        if len(told) == 3:
            break
    assert len(told) == 3
    assert all("connection" in text for text in told)


def test_a_second_store_stands_in(broken: Broken, tmp_path: pathlib.Path) -> None:
    second = open_objects(tmp_path / "second")
    for chunk in broken.chunks:
        second.put(chunk.key, chunk.data)
    reader = broken.reader(second)
    broken.proxy.hit(always=faults.wrong)
    assert reader.chunk(*broken.chunks[0].wanted, urgent=True) == broken.chunks[0].data
    broken.proxy.vanish()
    for chunk in broken.chunks:
        assert reader.chunk(*chunk.wanted, urgent=True) == chunk.data


def test_a_store_with_one_wrong_chunk_is_asked_for_the_others(
    broken: Broken, tmp_path: pathlib.Path
) -> None:
    second = open_objects(tmp_path / "second")
    for chunk in broken.chunks:
        second.put(chunk.key, chunk.data)
    reader = broken.reader(second)
    broken.proxy.hit(*[faults.wrong] * 3)
    for chunk in broken.chunks[:5]:
        assert reader.chunk(*chunk.wanted) == chunk.data
    assert reader.counts[0].chunks == 4


def test_the_error_names_both_stores(broken: Broken, tmp_path: pathlib.Path) -> None:
    second = open_objects(tmp_path / "second")
    chunk = broken.chunks[0]
    second.put(chunk.key, chunk.data[:-1] + b"x")
    broken.proxy.hit(always=faults.refused)
    with pytest.raises(StoreError) as caught:
        broken.reader(second).chunk(*chunk.wanted)
    assert broken.url in str(caught.value)
    assert "503" in str(caught.value)
    assert second.url in str(caught.value)
    assert "digest" in str(caught.value)


def test_a_chunk_that_is_missing_is_an_error_that_says_so(broken: Broken) -> None:
    with pytest.raises(StoreError, match="there is no object"):
        broken.reader().chunk(bytes(32), 100)


def test_closing_ends_whoever_waits(broken: Broken) -> None:
    reader = broken.reader()
    broken.proxy.hit(always=faults.silent(3))
    told: list[str] = []

    def ask(number: int) -> None:
        try:
            reader.chunk(*broken.chunks[number].wanted)
        except StoreError as error:
            told.append(str(error))

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    while broken.proxy.answers < 4:
        time.sleep(0.01)
    reader.close()
    for thread in threads:
        thread.join()
    assert len(told) == 4
    assert all("closed" in text for text in told)
    with pytest.raises(StoreError, match="closed"):
        reader.chunk(*broken.chunks[0].wanted)


@pytest.mark.parametrize("fault", ["refused", "truncated", "reset", "silent"])
def test_whole_objects_are_read_over_a_bad_line_too(broken: Broken, fault: str) -> None:
    objects = broken.objects()
    for chunk in broken.chunks[:2]:
        broken.proxy.hit(FAULTS[fault])
        assert objects.get(chunk.key) == chunk.data


@pytest.mark.parametrize("fault", ["refused", "truncated", "reset", "nonsense", "silent"])
def test_whole_objects_that_cannot_be_read_are_an_error_in_time(broken: Broken, fault: str) -> None:
    objects = broken.objects()
    broken.proxy.hit(always=FAULTS[fault])
    began = time.monotonic()
    with pytest.raises(StoreError, match="cannot read"):
        objects.get(broken.chunks[0].key)
    assert time.monotonic() - began < AT_MOST


def test_a_new_put_whose_answer_was_lost_is_not_taken_for_anothers(
    seaweed_s3: S3, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    proxy = Proxy(seaweed_s3.port)
    try:
        for name, value in seaweed_s3.environment(proxy.port).items():
            monkeypatch.setenv(name, value)
        store = RemoteObjects.open(f"s3://{seaweed_s3.bucket}/{prefix}", HASTY)
        proxy.hit(faults.truncated)
        store.put("snapshots/name", b"mine", new=True)
        assert store.get("snapshots/name") == b"mine"
    finally:
        proxy.close()
