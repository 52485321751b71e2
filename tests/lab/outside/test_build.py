"""Headers, a compiler and a module of them: what is fetched, and everything that may be lacking."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from helpers.skips import absent, need_root
from lab.repository import RELEASE, Repository
from userfault.kernel.errors import Unavailable
from userfault.lab.apt import FetchFailed, NoPackage
from userfault.lab.outside import build
from userfault.lab.outside.build import NoBuild, module_for
from userfault.lab.outside.root import headers_root
from userfault.lab.store import Kernel, Store

VERSION = "7.3.4"
TOOLS = ("binutils", "make", "dash", "coreutils", "sed", "grep", "mawk", "findutils", "diffutils")


def a_kernel(version: str = VERSION, suite: str = "trixie") -> Kernel:
    release = RELEASE.format(version=version)
    return Kernel("one", release, "vmlinuz", None, "busybox", suite, version)


@pytest.fixture
def archive(tmp_path: Path) -> Repository:
    if not shutil.which("dpkg-deb") or not shutil.which("apt-get"):
        absent("needs apt-get and dpkg-deb")
    made = Repository(tmp_path)
    for name in TOOLS:
        made.package(name, "1:1.0", "", {f"usr/bin/{name}": b"#!" + name.encode()})
    return made


@pytest.fixture
def store(archive: Repository, tmp_path: Path) -> Store:
    return Store(tmp_path / "cache", archive.etc)


def headers(archive: Repository, folder: str = "build") -> None:
    """The package of the headers, which depends on a compiler."""
    release = RELEASE.format(version=VERSION)
    archive.package("compiler", "2:1.0~rc1", "", {"usr/bin/cc": b"#!cc"})
    archive.package(
        f"linux-headers-{release}",
        VERSION,
        "compiler",
        {f"usr/lib/modules/{release}/{folder}/Makefile": b"all:"},
    )
    archive.publish()


def left_over(store: Store) -> list[str]:
    found = store.root / "headers" / "trixie"
    return [path.name for path in found.iterdir()] if found.exists() else []


def quiet(_told: str) -> None:
    """Nobody listens."""


def test_headers_come_with_what_they_depend_on_and_are_kept(
    archive: Repository, store: Store
) -> None:
    headers(archive)

    root = headers_root(store, a_kernel(), quiet)

    assert (root / "bin/cc").read_bytes() == b"#!cc"
    assert (root / "usr/bin/awk").resolve().read_bytes() == b"#!mawk"
    assert left_over(store) == [VERSION]
    shutil.rmtree(archive.root)
    assert headers_root(store, a_kernel(), quiet) == root


def test_headers_that_the_mirror_has_no_more_are_named_with_the_cure(
    archive: Repository, store: Store
) -> None:
    archive.publish()

    with pytest.raises(NoPackage, match=f"no package linux-headers-{VERSION}-cloud") as failed:
        headers_root(store, a_kernel(), quiet)

    assert "linux-headers" in failed.value.cause
    assert "userfault lab fetch" in failed.value.cure
    assert left_over(store) == []


def test_a_package_without_headers_leaves_nothing(archive: Repository, store: Store) -> None:
    headers(archive, folder="elsewhere")

    with pytest.raises(FetchFailed, match="holds no headers"):
        headers_root(store, a_kernel(), quiet)

    assert left_over(store) == []


@pytest.mark.parametrize(
    ("kernel", "cause"),
    [
        (a_kernel("6.12.9"), "vm_uffd_ops came with 7.1"),
        (a_kernel("7.0.3"), "vm_uffd_ops came with 7.1"),
        (a_kernel(suite=""), "a kernel of your own"),
    ],
)
def test_a_kernel_that_can_have_no_module_is_told_why(
    tmp_path: Path, kernel: Kernel, cause: str
) -> None:
    with pytest.raises(Unavailable) as refused:
        module_for(Store(tmp_path), kernel)

    assert cause in refused.value.cause
    assert "trixie-backports" in refused.value.cure


def test_a_build_that_fails_says_why_and_leaves_nothing(archive: Repository, store: Store) -> None:
    need_root()
    headers(archive)

    with pytest.raises(NoBuild, match="does not build") as failed:
        module_for(store, a_kernel())

    assert "/bin/sh" in failed.value.cause  # the root of this archive has no shell
    assert list((store.root / build.FOLDER).iterdir()) == []


def test_the_first_error_of_the_compiler_is_the_cause() -> None:
    told = "a.c: warning: this\na.c:3: error: that\na.c:9: error: more\nmake: *** [a.o] Error 1\n"

    assert build._complaint(told) == "a.c:3: error: that"
    assert build._complaint("make: *** no rule\n") == "make: *** no rule"


def test_without_unshare_the_lack_is_told(
    archive: Repository, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    headers(archive)
    headers_root(store, a_kernel(), quiet)
    monkeypatch.setenv("PATH", "")

    with pytest.raises(Unavailable, match="no unshare") as lacking:
        module_for(store, a_kernel())

    assert "util-linux" in lacking.value.cure
