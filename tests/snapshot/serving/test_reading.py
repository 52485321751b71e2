"""What a reader promises, whatever the store: verified bytes, in advance, once, from any thread."""

from __future__ import annotations

import pathlib
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from snapshot.chunks import Fill, filling, make
from snapshot.servers.nginx import Web
from userfault.snapshot.errors import StoreError
from userfault.snapshot.serving.reading import ChunkReader, open_reader
from userfault.snapshot.stores.fetching import Loop
from userfault.snapshot.stores.opening import open_objects

pytestmark = [pytest.mark.usefixtures("nothing_stays"), pytest.mark.xdist_group("stores")]


@pytest.fixture
def in_folder(tmp_path: pathlib.Path) -> Fill:
    return filling(open_objects(tmp_path / "store"))


@pytest.fixture(params=["folder", "web", "s3"])
def filled(request: pytest.FixtureRequest) -> Fill:
    """The same chunks in each kind of store."""
    found: Fill = request.getfixturevalue(f"in_{request.param}")
    return found


def test_chunks_are_delivered_in_any_order_and_more_than_once(filled: Fill) -> None:
    reader = open_reader(filled.url, cache="")
    try:
        for chunk in [*filled.chunks, *reversed(filled.chunks)]:
            assert reader.chunk(*chunk.wanted, urgent=True) == chunk.data
    finally:
        reader.close()


def test_chunks_are_delivered_to_many_threads(filled: Fill) -> None:
    reader = open_reader(filled.url, cache="")
    try:
        reader.ahead([chunk.wanted for chunk in filled.chunks])
        with ThreadPoolExecutor(8) as pool:
            asked = filled.chunks * 4
            answers = pool.map(lambda chunk: reader.chunk(*chunk.wanted), asked)
            for chunk, answer in zip(asked, answers, strict=True):
                assert answer == chunk.data
    finally:
        reader.close()


def test_a_missing_chunk_is_an_error_and_the_others_go_on(filled: Fill) -> None:
    reader = open_reader(filled.url, cache="")
    try:
        with pytest.raises(StoreError, match=r"cannot get chunk 0707070707070707…: .*no object"):
            reader.chunk(bytes([7]) * 32, 100)
        chunk = filled.chunks[0]
        assert reader.chunk(*chunk.wanted) == chunk.data
    finally:
        reader.close()


def test_what_is_read_in_advance_is_at_hand(filled: Fill) -> None:
    reader = open_reader(filled.url, cache="")
    try:
        first = filled.chunks[0]
        reader.ahead([chunk.wanted for chunk in filled.chunks])
        while (found := reader.now(*first.wanted)) is None:
            time.sleep(0.001)
        assert found == first.data
    finally:
        reader.close()


def test_now_never_gives_wrong_bytes(in_folder: Fill, tmp_path: pathlib.Path) -> None:
    reader = open_reader(in_folder.url)
    chunk, other = in_folder.chunks[:2]
    (tmp_path / "store" / chunk.key).write_bytes(bytes(len(chunk.data)))
    assert reader.now(*chunk.wanted) is None
    assert reader.now(*other.wanted) == other.data
    assert reader.now(bytes(32), 100) is None
    reader.close()


@pytest.mark.parametrize("how", ["flipped", "short", "long", "gone"])
def test_a_damaged_chunk_of_a_folder_comes_from_the_second_store(
    in_folder: Fill, in_web: Fill, tmp_path: pathlib.Path, how: str
) -> None:
    chunk = in_folder.chunks[0]
    path = tmp_path / "store" / chunk.key
    if how == "gone":
        path.unlink()
    else:
        changed = bytearray(chunk.data)
        changed[100] ^= 1
        path.write_bytes(
            {"flipped": bytes(changed), "short": chunk.data[:-1], "long": chunk.data + b"x"}[how]
        )
    alone = open_reader(in_folder.url)
    with pytest.raises(StoreError, match=f"chunk {chunk.digest.hex()[:16]}"):
        alone.chunk(*chunk.wanted)
    alone.close()
    reader = open_reader(in_folder.url, second=in_web.url)
    try:
        for one in in_folder.chunks:
            assert reader.chunk(*one.wanted, urgent=True) == one.data
        assert reader.counts[0].chunks == 1
    finally:
        reader.close()


def test_one_chunk_that_many_threads_want_is_read_once(in_s3: Fill) -> None:
    reader = open_reader(in_s3.url, cache="")
    start = threading.Barrier(8)
    chunk = in_s3.chunks[0]

    def ask() -> bytes:
        start.wait()
        return reader.chunk(*chunk.wanted)

    try:
        reader.chunk(*in_s3.chunks[1].wanted)  # connected
        with ThreadPoolExecutor(8) as pool:
            answers = [pool.submit(ask) for _ in range(8)]
            assert all(answer.result() == chunk.data for answer in answers)
        assert reader.counts[0].chunks - 1 < 8
    finally:
        reader.close()


def test_reading_in_advance_keeps_to_its_bound_and_goes_on_as_it_is_used(
    in_web: Fill, web: Web
) -> None:
    large = make(40, size=2 << 20, seed=3)
    store = open_objects(web.root / "large")
    for chunk in large:
        store.put(chunk.key, chunk.data)
    reader = ChunkReader([open_objects(web.url("large"))])
    try:
        reader.ahead([chunk.wanted for chunk in large])  # 80 MiB where 32 may be held
        while reader.counts[0].bytes < 24 << 20:
            time.sleep(0.001)
        reader.ahead([])  # a round trip through the loop
        assert reader.counts[0].bytes <= 32 << 20
        for chunk in large:
            assert reader.chunk(*chunk.wanted) == chunk.data
        assert reader.counts[0].chunks == len(large)
    finally:
        reader.close()
    assert in_web.chunks


def test_what_was_read_in_advance_for_nothing_makes_room(web: Web) -> None:
    large = make(40, size=2 << 20, seed=4)
    store = open_objects(web.root / "unused")
    for chunk in large:
        store.put(chunk.key, chunk.data)
    reader = ChunkReader([open_objects(web.url("unused"))])
    try:
        reader.ahead([chunk.wanted for chunk in large[:20]])
        while reader.counts[0].bytes < 24 << 20:
            time.sleep(0.001)
        reader.ahead([large[30].wanted])
        while (found := reader.now(*large[30].wanted)) is None:
            time.sleep(0.001)
        assert found == large[30].data
    finally:
        reader.close()


def test_a_reader_that_nobody_asked_anything_has_no_thread(in_s3: Fill) -> None:
    before = threading.active_count()
    reader = open_reader(in_s3.url, cache="")
    assert threading.active_count() == before
    reader.close()


def test_an_empty_name_of_a_cache_means_none(
    in_s3: Fill, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    chunk = in_s3.chunks[0]
    for environment, argument in (("", None), (str(tmp_path / "named"), "")):
        monkeypatch.setenv("USERFAULT_CACHE", environment)
        reader = open_reader(in_s3.url, cache=argument)
        assert reader.chunk(*chunk.wanted) == chunk.data
        reader.close()
    assert not (tmp_path / "xdg").exists()
    assert not (tmp_path / "named").exists()


def test_what_is_told_to_a_closed_loop_is_dropped(capfd: pytest.CaptureFixture[str]) -> None:
    loop = Loop()
    loop.close()
    told: list[int] = []
    thread = threading.Thread(target=loop.call_soon_threadsafe, args=(told.append, 1))
    thread.start()
    thread.join()
    assert not told
    assert not capfd.readouterr().err


def test_a_closed_reader_says_so(in_s3: Fill) -> None:
    reader = open_reader(in_s3.url, cache="")
    reader.chunk(*in_s3.chunks[0].wanted)
    reader.close()
    reader.close()
    with pytest.raises(StoreError, match="closed"):
        reader.chunk(*in_s3.chunks[0].wanted)
