"""Snapshots as files again: the same bytes, whole or not there, and holes where they were."""

from __future__ import annotations

import contextlib
import os
import struct
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from cli.commands import environment
from helpers.skips import absent, need_root
from helpers.stores import chunk_files, memory, store
from snapshot.forging import honest, sealed, u32, u64
from userfault.kernel.errors import UsageError
from userfault.snapshot.errors import FormatError, StoreError, StoreFull
from userfault.snapshot.format.runs import Kind
from userfault.snapshot.serving.image import Image, open_image
from userfault.snapshot.serving.reading import open_reader
from userfault.snapshot.stores.newfile import NewFile
from userfault.snapshot.stores.opening import open_objects
from userfault.snapshot.upkeep.diff import diff
from userfault.snapshot.upkeep.export import export_raw

PAGE = 4096


def exported(place: Path, to: Path) -> bytes:
    """The snapshot `place` written to the file `to`."""
    with contextlib.closing(open_reader(str(place.parent))) as reader:
        export_raw(image_of(place), reader, str(to))
    return to.read_bytes()


def image_of(place: Path) -> Image:
    return open_image(open_objects(place.parent), place.name)


@pytest.mark.parametrize("cut", [0, 1, 4095])
def test_what_was_packed_is_exported(tmp_path: Path, cut: int) -> None:
    data = memory(700)[: 700 * PAGE - cut]
    assert exported(store(tmp_path / "store", "one", data), tmp_path / "out") == data


def test_layers_are_exported_as_one(tmp_path: Path) -> None:
    first = memory(300)
    second = first[: 40 * PAGE] + memory(50, seed=2) + first[90 * PAGE :] + b"more"
    store(tmp_path / "store", "one", first)
    place = store(tmp_path / "store", "two", second, base="one")
    assert exported(place, tmp_path / "out") == second


@pytest.mark.parametrize("data", [b"", bytes(30 * PAGE), b"x"])
def test_small_and_empty_images(tmp_path: Path, data: bytes) -> None:
    assert exported(store(tmp_path / "store", "one", data), tmp_path / "out") == data


def test_zeros_become_holes(tmp_path: Path) -> None:
    data = bytes(1 << 20) + os.urandom(PAGE) + bytes(1 << 20)
    exported(store(tmp_path / "store", "one", data), tmp_path / "out")
    assert (tmp_path / "out").stat().st_blocks * 512 < 1 << 16


def test_the_file_is_for_its_owner_alone(tmp_path: Path) -> None:
    exported(store(tmp_path / "store", "one", b"secret"), tmp_path / "out")
    assert (tmp_path / "out").stat().st_mode & 0o777 == 0o600


def test_progress_goes_up_to_the_end(tmp_path: Path) -> None:
    place = store(tmp_path / "store", "one", memory(300))
    seen: list[tuple[int, int]] = []
    with contextlib.closing(open_reader(str(place.parent))) as reader:
        export_raw(
            image_of(place),
            reader,
            str(tmp_path / "out"),
            progress=lambda done, total: seen.append((done, total)),
        )
    assert seen == sorted(seen)
    assert seen[-1][0] == seen[-1][1] > 0


def test_a_damaged_chunk_leaves_what_was_there(tmp_path: Path, leaks_nothing: None) -> None:
    del leaks_nothing
    place = store(tmp_path / "store", "one", memory(300))
    chunk_files(place.parent, "one")[0].write_bytes(b"damage")
    folder = tmp_path / "out"
    folder.mkdir()
    (folder / "image").write_bytes(b"before")
    with pytest.raises((StoreError, FormatError)):
        exported(place, folder / "image")
    assert (folder / "image").read_bytes() == b"before"
    assert os.listdir(folder) == ["image"]


def test_a_chunk_of_fewer_pages_than_the_manifest_says_is_an_error(tmp_path: Path) -> None:
    """Not a file with holes where pages were promised, nor pages that differ from nothing."""
    place = store(tmp_path / "store", "one", os.urandom(3 * PAGE))
    made = image_of(place).chunks
    body = honest(
        length=4 * PAGE,
        counts=u32(4),
        kinds=bytes([Kind.CHUNK]),
        values=u64(0),
        digests=made.digest(0),
        stored=u32(made.stored_length(0)),
        pages=struct.pack("<H", 4),
    )
    open_objects(place.parent).put("snapshots/more", sealed(body))
    with pytest.raises(FormatError, match="the manifest says"):
        exported(place.with_name("more"), tmp_path / "out")
    assert not (tmp_path / "out").exists()
    place = store(tmp_path / "store", "zeros", bytes(4 * PAGE))
    with contextlib.closing(open_reader(str(place.parent))) as reader:
        sides = (image_of(place.with_name("more")), reader, image_of(place), reader)
        with pytest.raises(FormatError, match="the manifest says"):
            list(diff(*sides))


def test_a_file_of_its_name_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "out").write_bytes(b"before" * 10_000)
    assert exported(store(tmp_path / "store", "one", b"now"), tmp_path / "out") == b"now"


def test_exports_of_one_file_at_once_end_with_a_whole_one(tmp_path: Path) -> None:
    data = [memory(300, seed) for seed in (1, 2)]
    places = [store(tmp_path / "store", f"n{n}", each) for n, each in enumerate(data)]
    (tmp_path / "out").mkdir()
    threads = [
        threading.Thread(target=exported, args=(place, tmp_path / "out" / "image"))
        for place in places * 3
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (tmp_path / "out" / "image").read_bytes() in data
    assert os.listdir(tmp_path / "out") == ["image"]


@pytest.mark.parametrize("kind", ["folder", "pipe"])
def test_what_is_no_file_is_not_replaced(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "thing"
    path.mkdir() if kind == "folder" else os.mkfifo(path)
    with pytest.raises(UsageError, match="it is no ordinary file"):
        NewFile(str(path))


def test_a_folder_that_is_not_there_is_an_error() -> None:
    with pytest.raises(StoreError, match="No such file or directory"):
        NewFile("/nonexistent/image")


@contextlib.contextmanager
def small_disk(folder: Path, size: int) -> Iterator[Path]:
    """A tmpfs of `size` bytes."""
    need_root()
    folder.mkdir()
    options: Sequence[str] = ("-t", "tmpfs", "-o", f"size={size}", "none", str(folder))
    mounted = subprocess.run(["mount", *options], capture_output=True, text=True, check=False)
    if mounted.returncode:
        absent(f"cannot mount a tmpfs here: {mounted.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk_is_told_and_nothing_is_left(tmp_path: Path, leaks_nothing: None) -> None:
    del leaks_nothing
    place = store(tmp_path / "store", "one", os.urandom(1 << 20))
    with small_disk(tmp_path / "small", 1 << 18) as small:
        with pytest.raises(StoreFull, match="No space left on device"):
            exported(place, small / "image")
        assert os.listdir(small) == []


def test_an_export_that_is_killed_leaves_nothing(tmp_path: Path) -> None:
    code = (
        "import os, signal, sys\n"
        "from userfault.snapshot.stores.newfile import NewFile\n"
        "with NewFile(sys.argv[1]) as file:\n"
        "    os.pwrite(file.fd, b'half', 0)\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "image")], env=environment(), check=False
    )
    assert os.listdir(tmp_path) == []


def test_where_files_without_a_name_cannot_be_made_one_with_a_name_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As a file system without O_TMPFILE answers (overlayfs before 6.3, NFS).
    real = os.open

    def refusing(path: str, flags: int, *more: int, **named: int) -> int:
        if flags & os.O_TMPFILE == os.O_TMPFILE:
            raise OSError(95, "Operation not supported")
        return real(path, flags, *more, **named)

    monkeypatch.setattr(os, "open", refusing)
    with NewFile(str(tmp_path / "image")) as file:
        os.pwrite(file.fd, b"whole", 0)
        file.commit()
    with NewFile(str(tmp_path / "another")) as file:
        os.pwrite(file.fd, b"half", 0)
    assert os.listdir(tmp_path) == ["image"]
    assert (tmp_path / "image").read_bytes() == b"whole"
