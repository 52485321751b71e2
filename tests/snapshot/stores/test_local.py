"""A folder as a store: whole objects or none, whoever is killed and however full the disk is."""

from __future__ import annotations

import errno
import multiprocessing
import os
import pathlib
import signal
import stat
import subprocess
import sys
import time

import pytest

from snapshot.chunks import make
from userfault.kernel.errors import UsageError
from userfault.snapshot.errors import (
    AlreadyThere,
    FormatError,
    NoSuchObject,
    StoreError,
    StoreFull,
)
from userfault.snapshot.stores import atomic, folders, marks
from userfault.snapshot.stores.local import LocalObjects
from userfault.snapshot.stores.opening import open_objects

pytestmark = pytest.mark.usefixtures("leaks_nothing")


@pytest.fixture
def store(tmp_path: pathlib.Path) -> LocalObjects:
    return LocalObjects(tmp_path / "deep" / "store")


def files(store: LocalObjects) -> list[str]:
    """What is in its folder besides the file that says that it is a store."""
    root = pathlib.Path(store.url)
    found = {str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()}
    return sorted(found - {marks.STORE.name})


def test_what_is_put_can_be_read_listed_and_removed(store: LocalObjects) -> None:
    store.put("chunks/ab/cd", b"one")
    store.put("snapshots/name", memoryview(b"three"), new=True)
    assert store.get("chunks/ab/cd") == b"one"
    assert store.size("snapshots/name") == 5
    assert {(one.key, one.size) for one in store.list()} == {
        ("chunks/ab/cd", 3),
        ("snapshots/name", 5),
    }
    [listed] = store.list("chunks/")
    assert abs(listed.modified - time.time()) < 600
    store.delete(["chunks/ab/cd", "chunks/ab/never-was"])
    assert not store.exists("chunks/ab/cd")
    with pytest.raises(NoSuchObject, match="chunks/ab/cd"):
        store.get("chunks/ab/cd")


def test_a_put_replaces_and_a_new_put_does_not(store: LocalObjects) -> None:
    store.put("a/b", b"first")
    store.put("a/b", b"second")
    with pytest.raises(AlreadyThere, match="a/b"):
        store.put("a/b", b"third", new=True)
    assert store.get("a/b") == b"second"
    assert files(store) == ["a/b"]


def test_a_new_store_is_its_owners_alone(store: LocalObjects) -> None:
    store.put("a/b", b"secrets of a process")
    assert stat.S_IMODE(os.stat(store.url).st_mode) == 0o700


def test_a_file_url_is_a_folder(tmp_path: pathlib.Path) -> None:
    open_objects(f"file://{tmp_path}/s").put("a/b", b"x")
    assert (tmp_path / "s" / "a" / "b").read_bytes() == b"x"


@pytest.mark.parametrize("key", ["../x", "a/../b", "/etc/passwd", "a//b", "a/", "", "a b", "a\0b"])
def test_a_key_cannot_leave_the_store(store: LocalObjects, key: str) -> None:
    with pytest.raises(UsageError, match="no key"):
        store.get(key)
    with pytest.raises(UsageError, match="no key"):
        store.put(key, b"")
    with pytest.raises(UsageError, match="no key"):
        store.delete([key])


def test_an_unknown_scheme_names_the_known_ones() -> None:
    with pytest.raises(UsageError, match="s3://"):
        open_objects("ftp://host/x")


def test_an_object_longer_than_it_can_be_is_not_read(store: LocalObjects) -> None:
    store.put("a/b", b"x" * 1000)
    assert store.get("a/b", most=1000) == b"x" * 1000
    with pytest.raises(FormatError, match="1000 bytes"):
        store.get("a/b", most=999)
    with pytest.raises(FormatError, match="1000 bytes"):
        store.at_hand("a/b", 999)


def test_a_pipe_in_the_place_of_an_object_does_not_hang(store: LocalObjects) -> None:
    store.put("a/b", b"x")
    os.mkfifo(f"{store.url}/a/pipe")
    with pytest.raises(FormatError, match="no regular file"):
        store.get("a/pipe")


def test_a_store_that_is_not_there_says_so(tmp_path: pathlib.Path) -> None:
    with pytest.raises(NoSuchObject, match="no such folder"):
        LocalObjects(tmp_path / "nowhere").get("a/b")
    assert list(LocalObjects(tmp_path / "nowhere").list()) == []


def test_a_file_in_the_place_of_the_store_is_an_error(tmp_path: pathlib.Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StoreError, match="Not a directory"):
        LocalObjects(tmp_path / "file").put("a/b", b"x")


def test_what_is_in_the_page_cache_is_at_hand(store: LocalObjects) -> None:
    store.put("a/b", b"x" * 50_000)
    assert store.at_hand("a/b", 50_000) == b"x" * 50_000
    with pytest.raises(NoSuchObject):
        store.at_hand("a/c", 1)


@pytest.mark.parametrize("count", [3, 40])
def test_flush_returns_with_few_and_with_many_objects(store: LocalObjects, count: int) -> None:
    for number in range(count):
        store.put(f"chunks/{number:02x}/x", b"x")
    store.flush()
    store.flush()
    assert len(list(store.list())) == count


def test_a_full_disk_is_told_and_leaves_nothing(small_disk: pathlib.Path) -> None:
    store = LocalObjects(small_disk / "store")
    chunks = make(80)
    done = []

    def fill() -> None:
        for chunk in chunks:
            store.put(chunk.key, chunk.data)
            done.append(chunk)

    with pytest.raises(StoreFull, match=r"No space left on device.*intact"):
        fill()
    assert files(store) == sorted(chunk.key for chunk in done)
    for chunk in done:
        assert store.get(chunk.key) == chunk.data
    with pytest.raises(StoreFull):
        store.put(done[0].key, bytes(1 << 20))  # replacing
    assert store.get(done[0].key) == done[0].data


def _put_forever(folder: str, started: int) -> None:
    store = LocalObjects(folder)
    os.write(started, b"x")
    for number in range(1 << 30):
        store.put(f"chunks/{number % 256:02x}/{number}", bytes(200_000))


def test_a_writer_killed_at_any_moment_leaves_whole_objects_and_leftovers_are_removed(
    tmp_path: pathlib.Path,
) -> None:
    folder = tmp_path / "store"
    for number in range(12):
        read, write = os.pipe()
        writer = multiprocessing.get_context("fork").Process(
            target=_put_forever, args=(str(folder), write)
        )
        writer.start()
        os.read(read, 1)
        time.sleep(0.003 * number)
        assert writer.pid is not None
        os.kill(writer.pid, signal.SIGKILL)
        writer.join()
        writer.close()
        os.close(read)
        os.close(write)
    store = LocalObjects(folder)
    (folder / "tmp" / "userfault-0123456789abcdef.part").write_bytes(
        b"half"
    )  # of a writer that is dead
    store.put("snapshots/after", b"x")
    assert os.listdir(folder / "tmp") == []
    assert {one.size for one in store.list("chunks/")} == {200_000}


def swept(folder: pathlib.Path) -> int:
    with folders.named(str(folder)) as fd:
        return atomic.sweep(fd)


def test_a_file_that_a_living_writer_fills_is_no_leftover(tmp_path: pathlib.Path) -> None:
    read, write = os.pipe()
    program = (
        "import os, sys; from userfault.snapshot.stores import atomic;"
        f"atomic._create(os.open({str(tmp_path)!r}, os.O_RDONLY));"
        "sys.stdout.write('x'); sys.stdout.flush();"
        "sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program], stdin=read, stdout=subprocess.PIPE
    ) as child:
        assert child.stdout is not None
        assert child.stdout.read(1) == b"x"
        assert swept(tmp_path) == 0
        assert len(os.listdir(tmp_path)) == 1
        os.close(write)
    os.close(read)
    assert swept(tmp_path) == 1
    assert os.listdir(tmp_path) == []


def _claim(folder: str, number: int, start: int) -> None:
    store = LocalObjects(folder)
    os.read(start, 1)
    try:
        store.put("snapshots/name", b"%d" % number, new=True)
    except AlreadyThere:
        os._exit(1)
    os._exit(0)


def test_of_several_writers_of_one_name_one_wins(tmp_path: pathlib.Path) -> None:
    for round_ in range(5):
        folder = str(tmp_path / f"store{round_}")
        start, go = os.pipe()
        context = multiprocessing.get_context("fork")
        writers = [context.Process(target=_claim, args=(folder, n, start)) for n in range(6)]
        for writer in writers:
            writer.start()
        os.write(go, b"x" * 6)
        for writer in writers:
            writer.join()
        won = [n for n, writer in enumerate(writers) if writer.exitcode == 0]
        assert len(won) == 1
        assert LocalObjects(folder).get("snapshots/name") == b"%d" % won[0]
        for writer in writers:
            writer.close()
        os.close(start)
        os.close(go)


def test_a_store_that_cannot_be_written_says_why(
    store: LocalObjects, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.put("a/b", b"x")

    def readonly(*_: object, **__: object) -> None:
        raise OSError(errno.EROFS, "read-only")

    monkeypatch.setattr(os, "rename", readonly)
    with pytest.raises(StoreError, match="Read-only file system"):
        store.put("a/c", b"x")
    assert os.listdir(f"{store.url}/tmp") == []


def test_local_stores_import_nothing_remote(tmp_path: pathlib.Path) -> None:
    program = (
        "import sys; from userfault.snapshot.serving.reading import open_reader;"
        f"open_reader({str(tmp_path)!r}).close();"
        "print([m for m in ('obstore', 'asyncio', 'ssl', 'userfault.snapshot.stores.cache')"
        " if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.strip() == "[]"
