"""What others put into the folders of a store or a cache, or where one is to be, stays there."""

from __future__ import annotations

import contextlib
import os
import stat
import time
from pathlib import Path

import pytest

from helpers.skips import need_root
from snapshot.chunks import make
from snapshot.images import SMALL, Pages, image
from userfault.kernel.errors import UserfaultError
from userfault.snapshot.errors import NotAStore, StoreError
from userfault.snapshot.packing.pack import pack
from userfault.snapshot.stores import leases, marks
from userfault.snapshot.stores.cache import ChunkCache
from userfault.snapshot.stores.local import LocalObjects
from userfault.snapshot.upkeep.gc import gc
from userfault.snapshot.upkeep.remove import remove
from userfault.snapshot.upkeep.verify import verify

NOBODY = 65534
LONG_AGO = time.time() - 10 * leases.EXPIRY
FOLDERS = ("", "tmp/", "chunks/", "chunks/ab/", "index/", "leases/", "tmp/deep/", "mine/")
NAMES = ("thesis.tex", "a b", "0123456789abcdef", ".hidden", "x.share", "1-0", "caf\udce9")


def strangers(folder: Path) -> dict[str, bytes]:
    """Put files of somebody's into a folder and wherever a store or a cache has its own."""
    made = {}
    for part in FOLDERS:
        (folder / part).mkdir(parents=True, exist_ok=True)
        for name in NAMES:
            made[part + name] = f"{part}{name} of somebody".encode("utf-8", "surrogateescape")
            (folder / (part + name)).write_bytes(made[part + name])
            os.utime(folder / (part + name), (LONG_AGO, LONG_AGO))
    return made


def left(folder: Path, made: dict[str, bytes]) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in made if (folder / name).exists()}


def packed(store: LocalObjects, name: str = "a", seed: int = 1) -> None:
    pack(store, name, Pages(image(seed, 40)), chunk_size=SMALL)


def test_nothing_is_made_in_a_folder_that_has_other_things_in_it(tmp_path: Path) -> None:
    made = strangers(tmp_path)
    before = sorted(os.listdir(tmp_path))
    with pytest.raises(NotAStore, match=r"has other things in it.*--into-existing"):
        packed(LocalObjects(tmp_path))
    assert sorted(os.listdir(tmp_path)) == before
    assert left(tmp_path, made) == made


def test_a_new_file_system_is_an_empty_folder(tmp_path: Path) -> None:
    (tmp_path / "lost+found").mkdir()
    packed(LocalObjects(tmp_path))
    (tmp_path / marks.STORE.name).unlink()
    packed(LocalObjects(tmp_path), "b", 2)
    assert (tmp_path / "lost+found").exists()


def test_no_command_touches_files_of_others_in_a_store(tmp_path: Path) -> None:
    made = strangers(tmp_path)
    store = LocalObjects(tmp_path, into_existing=True)
    packed(store)
    store = LocalObjects(tmp_path)  # it is one now
    packed(store, "b", 2)
    gone = tmp_path / "tmp" / "userfault-0123456789abcdef.part"  # a killed writer's
    gone.write_bytes(b"")
    lease = tmp_path / "leases" / f"{1:024x}.sweep"  # and its lease
    lease.write_bytes(b"")
    os.utime(lease, (LONG_AGO, LONG_AGO))
    store = LocalObjects(tmp_path)
    remove(store, "b")
    swept = gc(store, grace_s=0)
    assert (swept.chunks > 0, swept.dead_leases) == (True, 1)
    assert not gone.exists()
    assert not lease.exists()
    assert verify(store).sound
    assert left(tmp_path, made) == made


@pytest.mark.parametrize("part", ["tmp", "chunks", "index", "snapshots", "leases"])
def test_no_link_is_followed_in_a_store(tmp_path: Path, part: str) -> None:
    store = LocalObjects(tmp_path / "store")
    packed(store)
    remove(store, "a")
    victim = tmp_path / "victim"
    made = strangers(victim)
    (tmp_path / "store" / part).rename(tmp_path / "was")
    for each in (tmp_path / "was").iterdir():  # what we would remove, were it ours
        each.rename(victim / each.name)
    os.symlink(victim, tmp_path / "store" / part)
    before = sorted(map(str, victim.rglob("*")))
    with pytest.raises(StoreError, match="symbolic link"):
        packed(LocalObjects(store.url), "c", 3)
    with contextlib.suppress(UserfaultError):  # it may find nothing to do, or a link in its way
        gc(LocalObjects(store.url), grace_s=0)
    assert sorted(map(str, victim.rglob("*"))) == before
    assert left(victim, made) == made


def test_a_file_that_is_a_link_is_replaced_and_not_written_through(tmp_path: Path) -> None:
    store = LocalObjects(tmp_path / "store")
    store.put("a/b", b"first")
    (tmp_path / "victim").write_bytes(b"mine")
    (tmp_path / "store" / "a" / "c").symlink_to(tmp_path / "victim")
    store.put("a/c", b"second")
    assert store.get("a/c") == b"second"
    assert (tmp_path / "victim").read_bytes() == b"mine"


def test_a_store_of_a_release_without_marks_is_one(tmp_path: Path) -> None:
    store = LocalObjects(tmp_path)
    packed(store)
    mark = tmp_path / marks.STORE.name
    mark.unlink()
    (tmp_path / "notes").write_bytes(b"that release would make a store anywhere")
    packed(LocalObjects(tmp_path), "b", 2)
    assert mark.read_bytes() == marks.STORE.text
    for name in ("a", "b"):
        remove(LocalObjects(tmp_path), name)
    gc(LocalObjects(tmp_path), grace_s=0)
    mark.unlink()
    (tmp_path / "notes").unlink()
    packed(LocalObjects(tmp_path), "c", 3)  # nothing was left in it
    assert mark.exists()


def test_a_mark_of_somebody_elses_is_none(tmp_path: Path) -> None:
    (tmp_path / marks.STORE.name).write_bytes(b"a list of shops")
    with pytest.raises(NotAStore, match="none that userfault wrote"):
        LocalObjects(tmp_path, into_existing=True).put("a/b", b"x")
    assert (tmp_path / marks.STORE.name).read_bytes() == b"a list of shops"


def test_an_empty_folder_of_somebody_else_is_no_place_for_a_store(tmp_path: Path) -> None:
    need_root()
    folder = tmp_path / "trap"
    folder.mkdir()
    folder.chmod(0o777)
    with pytest.raises(NotAStore, match="everybody may write"):
        packed(LocalObjects(folder))
    folder.chmod(0o755)
    os.chown(folder, NOBODY, NOBODY)
    with pytest.raises(NotAStore, match=f"belongs to user {NOBODY}"):
        packed(LocalObjects(folder))
    packed(LocalObjects(folder, into_existing=True))
    packed(LocalObjects(folder), "b", 2)


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o277])
@pytest.mark.parametrize(
    ("mode", "files", "folders"), [(0o700, 0o600, 0o700), (0o2750, 0o640, 0o2750)]
)
def test_modes_are_those_of_the_stores_folder_whatever_the_umask(
    tmp_path: Path, umask: int, mode: int, files: int, folders: int
) -> None:
    folder = tmp_path / "new" / "store"
    before = os.umask(umask)
    try:
        store = LocalObjects(folder)
        store.make_ready()
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        assert stat.S_IMODE(folder.parent.stat().st_mode) == 0o755
        folder.chmod(mode)
        packed(LocalObjects(folder))
    finally:
        os.umask(before)
    found = {
        stat.S_IMODE(path.stat().st_mode)
        for path in folder.rglob("*")
        if path.is_file() and path.name != marks.STORE.name
    }
    assert found == {files}
    assert {stat.S_IMODE((folder / "chunks").stat().st_mode)} == {folders}


def test_names_of_new_folders_are_on_disk_before_anything_is_in_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: set[tuple[int, int]] = set()
    real = os.fsync

    def note(fd: int) -> None:
        held = os.fstat(fd)
        synced.add((held.st_dev, held.st_ino))
        real(fd)

    monkeypatch.setattr(os, "fsync", note)
    packed(LocalObjects(tmp_path / "one" / "two" / "store"))
    for folder in (tmp_path, tmp_path / "one", tmp_path / "one" / "two"):
        held = folder.stat()
        assert (held.st_dev, held.st_ino) in synced


def test_a_cache_is_not_made_in_a_folder_that_has_other_things_in_it(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    made = strangers(tmp_path)
    before = sorted(os.listdir(tmp_path))
    cache = ChunkCache(str(tmp_path), 1 << 20)
    for chunk in make(3):
        cache.put(chunk.digest, chunk.data)
        assert cache.get(*chunk.wanted) is None
    assert "has other things in it" in caplog.text
    assert sorted(os.listdir(tmp_path)) == before
    assert left(tmp_path, made) == made


def test_evictions_and_sweeps_of_a_cache_take_its_own_files_alone(tmp_path: Path) -> None:
    folder = tmp_path / "cache"
    cache = ChunkCache(str(folder), 100_000)
    for chunk in make(3):
        cache.put(chunk.digest, chunk.data)
    made = strangers(folder)
    leftover = folder / "tmp" / "userfault-0123456789abcdef.part"
    leftover.write_bytes(b"")
    cache = ChunkCache(str(folder), 100_000)
    chunks = make(40, seed=3)
    for chunk in chunks:
        cache.put(chunk.digest, chunk.data)
    assert 0 < sum(cache.has(chunk.digest) for chunk in chunks) < len(chunks)
    assert not leftover.exists()
    assert left(folder, made) == made


@pytest.mark.parametrize("name", ["usage", "evicting"])
@pytest.mark.parametrize("how", ["symlink", "link"])
def test_a_cache_writes_through_no_link(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, name: str, how: str
) -> None:
    cache = ChunkCache(str(tmp_path / "cache"), 1 << 20)
    [chunk, other] = make(2)
    cache.put(chunk.digest, chunk.data)
    victim = tmp_path / "victim"
    victim.write_bytes(b"root:x:0:0:root:/root:/bin/bash of a file that matters")
    (tmp_path / "cache" / name).unlink()
    getattr(os, how)(victim, tmp_path / "cache" / name)
    cache.put(other.digest, other.data)
    assert victim.read_bytes().startswith(b"root:x:0:0:root:/root:/bin/bash of")
    assert not cache.has(other.digest)
    assert "going on without the cache" in caplog.text


@pytest.mark.parametrize(("mode", "owner"), [(0o777, 0), (0o770, 0), (0o700, NOBODY)])
def test_a_cache_folder_that_others_may_write_is_not_used(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, mode: int, owner: int
) -> None:
    need_root()
    cache = ChunkCache(str(tmp_path / "cache"), 1 << 20)
    [chunk, other] = make(2)
    cache.put(chunk.digest, chunk.data)
    folder = tmp_path / "cache"
    os.chown(folder, owner, owner)
    folder.chmod(mode)
    cache = ChunkCache(str(folder), 1 << 20)
    before = sorted(map(str, folder.rglob("*")))
    assert cache.get(*chunk.wanted) is None
    cache.put(other.digest, other.data)
    assert sorted(map(str, folder.rglob("*"))) == before
    assert "may write there" in caplog.text


def test_a_cache_of_a_release_without_marks_is_one(tmp_path: Path) -> None:
    folder = tmp_path / "cache"
    [chunk, other] = make(2)
    ChunkCache(str(folder), 1 << 20).put(chunk.digest, chunk.data)
    (folder / marks.CACHE.name).unlink()
    cache = ChunkCache(str(folder), 1 << 20)
    cache.put(other.digest, other.data)
    assert cache.get(*other.wanted) == other.data
    assert (folder / marks.CACHE.name).exists()


def test_a_refusal_names_a_place_where_it_works(tmp_path: Path) -> None:
    (tmp_path / "mine").write_bytes(b"")
    with pytest.raises(UserfaultError) as refused:
        packed(LocalObjects(tmp_path))
    assert f"{tmp_path}/store" in refused.value.cure
    packed(LocalObjects(tmp_path / "store"))
