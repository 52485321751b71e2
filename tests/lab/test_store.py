"""Fetching kernels: from an archive of our own, and everything that may be wrong with one."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from helpers.skips import absent, need_root
from lab.repository import Repository
from userfault.kernel.errors import Unavailable, UsageError
from userfault.lab.apt import FetchFailed, NoPackage
from userfault.lab.store import Store, own_kernel
from userfault.lab.suites import Suite, suite
from userfault.snapshot.errors import NotAStore
from userfault.snapshot.stores import marks

TRIXIE = suite("trixie")


@pytest.fixture
def archive(tmp_path: Path) -> Repository:
    if not shutil.which("dpkg-deb") or not shutil.which("apt-get"):
        absent("needs apt-get and dpkg-deb")
    made = Repository(tmp_path)
    made.package("busybox-static", "1.0", "", {"usr/bin/busybox": b"#!busybox"})
    return made


@pytest.fixture
def store(archive: Repository, tmp_path: Path) -> Store:
    return Store(tmp_path / "cache", archive.etc)


def contents(root: Path) -> list[str]:
    names = {path.name for path in root.iterdir() if not path.name.endswith(".lock")}
    return sorted(names - {marks.CACHE.name})


def test_the_newest_kernel_is_fetched(archive: Repository, store: Store) -> None:
    archive.kernel("6.12.9")
    archive.kernel("6.12.10")
    archive.publish()

    found = store.fetch(TRIXIE)

    assert (found.suite, found.version, found.release) == (
        "trixie",
        "6.12.10",
        "6.12.10-cloud-amd64",
    )
    assert Path(found.vmlinuz).read_bytes() == b"kernel 6.12.10"
    assert found.modules is not None
    assert Path(found.modules, "kernel/one.ko").exists()
    assert Path(found.busybox).exists()
    assert contents(store.root) == ["apt", "trixie"]


def test_a_kernel_in_two_packages_is_put_together(archive: Repository, store: Store) -> None:
    archive.kernel("7.2.13", split=True)
    archive.publish()

    found = store.fetch(TRIXIE)

    assert Path(found.vmlinuz).read_bytes() == b"kernel 7.2.13"
    assert found.modules is not None
    assert Path(found.modules, "kernel/one.ko").exists()


def test_what_is_there_is_not_downloaded_again(archive: Repository, store: Store) -> None:
    packages = archive.kernel("6.12.9")
    archive.publish()
    first = store.fetch(TRIXIE)
    for package in packages:
        package.unlink()

    assert store.fetch(TRIXIE) == first


def test_a_newer_kernel_comes_beside_the_old_one(archive: Repository, store: Store) -> None:
    archive.kernel("6.12.9")
    archive.publish()
    store.fetch(TRIXIE)
    archive.kernel("6.12.10")
    archive.publish()
    store.fetch(TRIXIE)

    assert [kernel.version for kernel in store.kernels()] == ["6.12.10", "6.12.9"]
    assert store.find("trixie").version == "6.12.10"
    assert store.find("6.12").version == "6.12.10"
    assert store.find("6.12.9").version == "6.12.9"


def test_a_series_is_the_newest_of_its_own(archive: Repository, store: Store) -> None:
    series = Suite("6.12", ("trixie",), "6.12", series="6.12")
    for version in ("6.12.9", "6.12.10", "6.13.1"):
        archive.kernel(version)
    archive.package("linux-image-6.12.11-cloud-amd64-unsigned", "6.12.11", "", {})
    archive.publish()

    found = store.fetch(series)

    assert (found.suite, found.version) == ("6.12", "6.12.10")
    assert Path(found.vmlinuz).read_bytes() == b"kernel 6.12.10"


def test_a_series_that_the_mirror_has_no_more_is_told_of(archive: Repository, store: Store) -> None:
    archive.kernel("6.18.1")
    archive.publish()

    with pytest.raises(NoPackage, match=r"the mirror has no kernel 6\.17.*--kernel"):
        store.fetch(Suite("6.17", ("trixie",), "6.17", series="6.17"))


def test_the_cache_can_be_moved(archive: Repository, store: Store, tmp_path: Path) -> None:
    archive.kernel("6.12.9")
    archive.publish()
    store.fetch(TRIXIE)
    store.root.rename(tmp_path / "elsewhere")

    assert Path(Store(tmp_path / "elsewhere").find("trixie").vmlinuz).exists()


def test_two_fetches_at_once_do_not_disturb_each_other(archive: Repository, store: Store) -> None:
    archive.kernel("6.12.9", padding=1 << 20)
    archive.publish()

    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(lambda _: store.fetch(TRIXIE), range(2)))

    assert found[0] == found[1]
    assert Path(found[0].vmlinuz).stat().st_size > 1 << 20
    assert contents(store.root) == ["apt", "trixie"]


def test_a_package_that_vanished_is_named(archive: Repository, store: Store) -> None:
    image = archive.kernel("6.12.9")[0]
    archive.publish()
    image.unlink()

    with pytest.raises(NoPackage, match=r"cannot download .*linux-image-6\.12\.9.*"):
        store.fetch(TRIXIE)
    assert store.kernels() == []
    assert contents(store.root) == ["apt", "trixie"]


def test_a_suite_without_kernels_says_so(archive: Repository, store: Store) -> None:
    archive.publish()

    with pytest.raises(NoPackage, match="no package linux-image-cloud-amd64"):
        store.fetch(TRIXIE)


def test_a_mirror_out_of_reach_says_so(archive: Repository, store: Store) -> None:
    (archive.etc / "sources.list").write_text("deb http://127.0.0.1:1/debian trixie main\n")

    with pytest.raises(NoPackage, match=r"cannot fetch the lists of packages.*127\.0\.0\.1"):
        store.fetch(TRIXIE)


def test_a_kernel_that_was_fetched_needs_no_mirror(archive: Repository, store: Store) -> None:
    archive.kernel("6.12.9")
    archive.publish()
    store.fetch(TRIXIE)
    shutil.rmtree(archive.root)

    assert store.find("trixie").version == "6.12.9"


def test_without_apt_it_says_so(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")

    with pytest.raises(NoPackage, match=r"no apt-get.*--kernel VMLINUZ"):
        store.fetch(TRIXIE)


def test_without_a_debian_mirror_it_says_so(store: Store, archive: Repository) -> None:
    (archive.etc / "sources.list").write_text("deb http://example.org/other stable-ish extra\n")

    with pytest.raises(Unavailable, match="no Debian mirror"):
        store.fetch(TRIXIE)


@contextlib.contextmanager
def small_disk(place: Path) -> Iterator[None]:
    place.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(place)], check=False
    )
    if done.returncode:
        absent("needs mount(8) of a tmpfs")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)


def test_a_full_disk_says_so_and_leaves_nothing_half(archive: Repository, tmp_path: Path) -> None:
    need_root()
    archive.kernel("6.12.9", padding=8 << 20)
    archive.publish()
    with small_disk(tmp_path / "disk"):
        store = Store(tmp_path / "disk" / "lab", archive.etc)

        with pytest.raises(FetchFailed, match="free some space, or choose another --cache"):
            store.fetch(TRIXIE)
        assert store.kernels() == []
        assert not list(store.root.glob("unfinished-*"))


def test_a_fetch_that_was_killed_leaves_no_half_kernel(archive: Repository, store: Store) -> None:
    archive.kernel("6.12.9")
    archive.publish()
    program = (
        "import os, signal, sys; from pathlib import Path\n"
        "from userfault.lab import apt, store; from userfault.lab.suites import suite\n"
        "unpack = apt.Apt.unpack\n"
        "def dies(*arguments):\n"
        "    unpack(*arguments)\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
        "apt.Apt.unpack = dies\n"
        "store.Store(Path(sys.argv[1]), Path(sys.argv[2])).fetch(suite('trixie'))\n"
    )
    command = [sys.executable, "-c", program, str(store.root), str(archive.etc)]
    assert subprocess.run(command, check=False).returncode == -9

    assert store.kernels() == []
    assert len(list(store.root.glob("unfinished-*"))) == 1
    assert store.fetch(TRIXIE).version == "6.12.9"
    assert contents(store.root) == ["apt", "trixie"]


def test_what_others_have_put_there_stays(archive: Repository, store: Store) -> None:
    archive.kernel("6.12.9")
    archive.publish()
    theirs = [store.root / name for name in ("unfinished-trixie.thesis/a", "trixie/6.12.9/notes/a")]
    for path in theirs[:1]:
        path.parent.mkdir(parents=True)
        path.write_text("of somebody")
    with pytest.raises(NotAStore, match="has other things in it"):  # nobody asked for a cache here
        store.fetch(TRIXIE)
    shutil.rmtree(store.root)
    store.fetch(TRIXIE)
    shutil.rmtree(store.root / "trixie")
    linked = store.root.parent / "elsewhere"
    for path in (*theirs, linked / "a", store.root / "apt/trixie/downloads/a"):
        path.parent.mkdir(parents=True)
        path.write_text("of somebody")
    (store.root / "unfinished-trixie.abcdefgh").symlink_to(linked)
    with pytest.raises(FetchFailed, match="there is something else of this name"):
        store.fetch(TRIXIE)
    shutil.rmtree(store.root / "trixie")
    assert store.fetch(TRIXIE).version == "6.12.9"
    for path in (theirs[0], linked / "a", store.root / "apt/trixie/downloads/a"):
        assert path.read_text() == "of somebody"


def test_a_cache_of_a_release_without_marks_is_one(archive: Repository, store: Store) -> None:
    archive.kernel("6.12.9")
    archive.publish()
    store.fetch(TRIXIE)
    (store.root / marks.CACHE.name).unlink()
    archive.kernel("6.12.10")
    archive.publish()
    assert store.fetch(TRIXIE).version == "6.12.10"
    assert (store.root / marks.CACHE.name).exists()


def test_an_unknown_kernel_is_told_from_those_there(archive: Repository, store: Store) -> None:
    archive.kernel("6.12.9")
    archive.publish()
    store.fetch(TRIXIE)

    with pytest.raises(UsageError, match=r"no kernel '5\.10': fetched are: trixie \(6\.12\.9\)"):
        store.find("5.10")


def test_a_kernel_of_ones_own_borrows_busybox(
    archive: Repository, store: Store, tmp_path: Path
) -> None:
    archive.kernel("6.12.9")
    archive.publish()
    there = store.fetch(TRIXIE)
    mine = tmp_path / "bzImage"
    mine.write_bytes(b"mine")

    found = own_kernel(store, mine, None)

    assert (found.vmlinuz, found.modules, found.busybox) == (str(mine), None, there.busybox)
