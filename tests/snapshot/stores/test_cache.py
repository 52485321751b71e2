"""The local cache: one folder, many processes, killed at any moment, never wrong bytes."""

from __future__ import annotations

import logging
import multiprocessing
import os
import pathlib
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable

import pytest

from snapshot.chunks import Chunk, Fill, make
from userfault.kernel.errors import UsageError
from userfault.snapshot.serving.reading import open_reader
from userfault.snapshot.stores.cache import ChunkCache, open_cache, parse_size

pytestmark = [pytest.mark.usefixtures("nothing_stays"), pytest.mark.xdist_group("stores")]

_FORK = multiprocessing.get_context("fork")


def held(cache: ChunkCache) -> int:
    """Bytes of the chunks in the folder."""
    folder = pathlib.Path(cache.folder) / "chunks"
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def path_of(cache: ChunkCache, chunk: Chunk) -> pathlib.Path:
    return pathlib.Path(cache.folder) / chunk.key


@pytest.fixture
def cache(tmp_path: pathlib.Path) -> ChunkCache:
    return ChunkCache(str(tmp_path / "cache"), 1 << 20)


def test_what_was_put_is_there_for_every_process(cache: ChunkCache) -> None:
    [chunk, other] = make(2)
    assert cache.get(*chunk.wanted) is None
    assert cache.at_hand(*chunk.wanted) is None
    cache.put(chunk.digest, chunk.data)
    another = ChunkCache(cache.folder, 1 << 20)
    assert another.has(chunk.digest)
    assert another.get(*chunk.wanted) == chunk.data
    assert another.at_hand(*chunk.wanted) == chunk.data
    assert another.get(*other.wanted) is None


@pytest.mark.parametrize("how", ["flipped", "short", "long", "empty"])
def test_a_corrupt_file_is_dropped_and_never_given(cache: ChunkCache, how: str) -> None:
    [chunk] = make(1)
    cache.put(chunk.digest, chunk.data)
    bad = {
        "flipped": chunk.data[:-1] + bytes([chunk.data[-1] ^ 1]),
        "short": chunk.data[:-1],
        "long": chunk.data + b"x",
        "empty": b"",
    }[how]
    path_of(cache, chunk).write_bytes(bad)
    assert cache.at_hand(*chunk.wanted) is None
    assert cache.get(*chunk.wanted) is None
    assert not path_of(cache, chunk).exists()
    cache.put(chunk.digest, chunk.data)
    assert cache.get(*chunk.wanted) == chunk.data


def test_the_bound_holds_and_the_least_recently_used_go(cache: ChunkCache) -> None:
    chunks = make(50)  # 20 KB each: all but one or two fit
    for chunk in chunks:
        cache.put(chunk.digest, chunk.data)
    assert held(cache) > 900_000
    used = chunks[:5]
    for chunk in used:
        assert cache.get(*chunk.wanted) == chunk.data
    for chunk in make(20, seed=2):
        cache.put(chunk.digest, chunk.data)
        assert held(cache) <= 1 << 20
    kept = {chunk.digest for chunk in chunks if cache.has(chunk.digest)}
    assert {chunk.digest for chunk in used} <= kept
    assert chunks[5].digest not in kept
    assert cache.usage() == held(cache)


def test_a_chunk_larger_than_the_cache_is_not_kept(tmp_path: pathlib.Path) -> None:
    cache = ChunkCache(str(tmp_path / "cache"), 1000)
    [chunk] = make(1)
    cache.put(chunk.digest, chunk.data)
    assert not cache.has(chunk.digest)


@pytest.mark.parametrize("torn", [b"", b"9" * 8, b"garbage"])
def test_a_lost_or_torn_count_is_counted_anew(cache: ChunkCache, torn: bytes) -> None:
    for chunk in make(40):
        cache.put(chunk.digest, chunk.data)
    (pathlib.Path(cache.folder) / "usage").write_bytes(torn)
    for chunk in make(40, seed=2):
        cache.put(chunk.digest, chunk.data)
    assert 0 < held(cache) <= 1 << 20
    assert cache.usage() == held(cache)


def _churn(folder: str, seed: int, rounds: int, told: Callable[[bytes], object]) -> None:
    """Read and write chunks at random; end with 1 where the cache gave wrong bytes."""
    cache = ChunkCache(folder, 1 << 20)
    dice = random.Random(seed)
    chunks = make(120)
    told(b"x")
    for _ in range(rounds):
        chunk = dice.choice(chunks)
        found = cache.get(*chunk.wanted)
        if found is None:
            cache.put(chunk.digest, chunk.data)
        elif found != chunk.data:
            os._exit(1)
    os._exit(0)


def _start(folder: str, seed: int, rounds: int) -> multiprocessing.context.ForkProcess:
    read, write = os.pipe()
    process = _FORK.Process(
        target=_churn, args=(folder, seed, rounds, lambda data: os.write(write, data))
    )
    process.start()
    os.read(read, 1)
    os.close(read)
    os.close(write)
    return process


def test_processes_share_it_while_others_are_killed(cache: ChunkCache) -> None:
    living = [_start(cache.folder, seed, 600) for seed in range(3)]
    for number in range(15):
        victim = _start(cache.folder, 100 + number, 1 << 30)
        time.sleep(0.004 * number)
        assert victim.pid is not None
        os.kill(victim.pid, signal.SIGKILL)
        victim.join()
        victim.close()
        assert cache.usage() <= 1 << 20
    for process in living:
        process.join()
        assert process.exitcode == 0
        process.close()
    assert held(cache) <= cache.usage() <= 1 << 20
    for chunk in make(120):  # whatever the killed ones left
        assert cache.get(*chunk.wanted) in (chunk.data, None)
    after = ChunkCache(cache.folder, 1 << 20)
    for chunk in make(60, seed=7):
        after.put(chunk.digest, chunk.data)
    assert held(after) <= 1 << 20
    assert os.listdir(pathlib.Path(cache.folder) / "tmp") == []
    assert after.evict(0)
    assert after.usage() == held(after)


def test_a_full_disk_is_said_once_and_everything_goes_on(
    small_disk: pathlib.Path, caplog: pytest.LogCaptureFixture
) -> None:
    cache = ChunkCache(str(small_disk / "cache"), 1 << 30)
    chunks = make(80)
    with caplog.at_level(logging.WARNING, logger="userfault"):
        for chunk in chunks:
            cache.put(chunk.digest, chunk.data)
    [record] = caplog.records
    assert "No space left on device" in record.getMessage()
    assert "going on without the cache" in record.getMessage()
    kept = [chunk for chunk in chunks if cache.has(chunk.digest)]
    assert kept
    for chunk in kept:
        assert cache.get(*chunk.wanted) == chunk.data


def test_a_folder_that_cannot_be_made_is_said_once_and_everything_goes_on(
    tmp_path: pathlib.Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_bytes(b"")
    cache = ChunkCache(str(tmp_path / "file" / "cache"), 1 << 20)
    with caplog.at_level(logging.WARNING, logger="userfault"):
        for chunk in make(3):
            cache.put(chunk.digest, chunk.data)
            assert cache.get(*chunk.wanted) is None
    assert len(caplog.records) == 1


def test_a_folder_that_is_removed_meanwhile_does_not_matter(cache: ChunkCache) -> None:
    import shutil

    first, second = make(2)
    cache.put(first.digest, first.data)
    shutil.rmtree(cache.folder)
    cache.put(second.digest, second.data)
    assert cache.get(*first.wanted) is None
    assert cache.get(*second.wanted) in (second.data, None)


def opened() -> ChunkCache:
    cache = open_cache()
    assert cache is not None
    return cache


def test_the_environment_says_where_and_how_large(
    tmp_path: pathlib.Path,
    no_credentials: None,  # noqa: ARG001  # nor other settings
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert opened().folder == str(tmp_path / "home" / ".cache" / "userfault")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert opened().folder == str(tmp_path / "xdg" / "userfault")
    monkeypatch.setenv("USERFAULT_CACHE", str(tmp_path / "mine"))
    monkeypatch.setenv("USERFAULT_CACHE_SIZE", "30K")
    cache = opened()
    assert cache.folder == str(tmp_path / "mine")
    for chunk in make(3):
        cache.put(chunk.digest, chunk.data)
    assert 0 < held(cache) <= 30 << 10
    monkeypatch.setenv("USERFAULT_CACHE_SIZE", "much")
    with pytest.raises(UsageError, match="500M"):
        open_cache()


def test_sizes_are_read_as_people_write_them() -> None:
    assert parse_size("1048576") == parse_size("1M") == parse_size("1MiB") == parse_size("1 mb")
    assert parse_size("10G") == 10 << 30
    for text in ("", "-1", "1.5G", "G", "10X", "10GG"):
        with pytest.raises(UsageError):
            parse_size(text)


def test_the_cache_is_its_owners_alone(cache: ChunkCache) -> None:
    [chunk] = make(1)
    cache.put(chunk.digest, chunk.data)
    assert os.stat(cache.folder).st_mode & 0o077 == 0


def test_a_reader_asks_the_store_for_a_chunk_once(in_s3: Fill, tmp_path: pathlib.Path) -> None:
    folder = str(tmp_path / "cache")
    for expected in (len(in_s3.chunks), 0):
        reader = open_reader(in_s3.url, cache=folder)
        try:
            for chunk in in_s3.chunks:
                assert reader.chunk(*chunk.wanted) == chunk.data
                assert reader.counts[0].chunks <= expected
            assert reader.counts[0].chunks == expected
        finally:
            reader.close()


def test_a_reader_fetches_again_what_the_cache_has_wrong(
    in_s3: Fill, tmp_path: pathlib.Path
) -> None:
    folder = str(tmp_path / "cache")
    reader = open_reader(in_s3.url, cache=folder)
    for chunk in in_s3.chunks:
        reader.chunk(*chunk.wanted)
    reader.close()
    cache = ChunkCache(folder, 1 << 30)
    for chunk in in_s3.chunks[::2]:
        path_of(cache, chunk).write_bytes(bytes(len(chunk.data)))
    reader = open_reader(in_s3.url, cache=folder)
    try:
        assert reader.now(*in_s3.chunks[0].wanted) is None
        assert reader.now(*in_s3.chunks[1].wanted) == in_s3.chunks[1].data
        for chunk in in_s3.chunks:
            assert reader.chunk(*chunk.wanted) == chunk.data
        assert reader.counts[0].chunks == len(in_s3.chunks[::2])
    finally:
        reader.close()


_READ_ALL = """
import sys, pathlib
from userfault.snapshot.serving.reading import open_reader
url, folder, *wanted = sys.argv[1:]
reader = open_reader(url, cache=folder)
pairs = [(bytes.fromhex(w.split(":")[0]), int(w.split(":")[1])) for w in wanted]
reader.ahead(pairs)
print("go", flush=True)
for pair in pairs:
    reader.chunk(*pair)
reader.close()
"""


def test_a_reader_killed_at_any_moment_leaves_a_sound_cache(
    in_s3: Fill, tmp_path: pathlib.Path
) -> None:
    folder = str(tmp_path / "cache")
    wanted = [f"{chunk.digest.hex()}:{len(chunk.data)}" for chunk in in_s3.chunks]
    command = [sys.executable, "-c", _READ_ALL, in_s3.url, folder, *wanted]
    for number in range(4):
        with subprocess.Popen(command, stdout=subprocess.PIPE) as child:
            assert child.stdout is not None
            child.stdout.readline()
            time.sleep(0.01 * number)
            child.kill()
    reader = open_reader(in_s3.url, cache=folder)
    try:
        for chunk in in_s3.chunks:
            assert reader.chunk(*chunk.wanted) == chunk.data
    finally:
        reader.close()
    cache = ChunkCache(folder, 1 << 30)
    for chunk in in_s3.chunks:
        assert cache.get(*chunk.wanted) == chunk.data
