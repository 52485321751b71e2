"""Stores on file systems without hard links and modes, and under a limit on the size of files."""

from __future__ import annotations

import os
import random
import resource
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from cli.commands import command, environment, userfault
from helpers.skips import absent, need_root
from helpers.stores import memory
from helpers.stores import store as packed
from snapshot.claims import claimed_at_once
from snapshot.servers.packages import need_packages
from userfault import lazy
from userfault.linux.limits import growing
from userfault.snapshot.stores.opening import open_objects

pytestmark = pytest.mark.xdist_group("stores")


@pytest.fixture
def fat(tmp_path: Path) -> Iterator[Path]:
    """A FAT file system, served by FUSE: link(2) is EPERM there, fchmod(2) ENOSYS."""
    need_root()
    if not os.path.exists("/dev/fuse"):
        absent("needs /dev/fuse")
    need_packages(("dosfstools",), "mkfs.vfat")
    need_packages(("fusefat", "fuse"), "fusefat")
    disk, folder = tmp_path / "disk", tmp_path / "fat"
    with open(disk, "wb") as file:
        file.truncate(40 << 20)
    subprocess.run(["mkfs.vfat", disk], check=True, capture_output=True)
    folder.mkdir()
    done = subprocess.run(
        ["fusefat", "-o", "rw+", disk, folder], capture_output=True, text=True, check=False
    )
    if not os.path.ismount(folder):
        absent(f"cannot mount a FAT file system: {done.stdout}{done.stderr}")
    yield folder
    subprocess.run(["umount", folder], check=True)


def test_a_store_may_lie_where_there_are_no_hard_links(fat: Path, tmp_path: Path) -> None:
    (fat / "a").write_bytes(b"x")
    with pytest.raises(PermissionError):
        os.link(fat / "a", fat / "b")
    image = memory(300, seed=3)
    (tmp_path / "image").write_bytes(image)
    place = f"{fat}/store"
    pack = ("pack", f"{tmp_path}/image", f"{place}/one")
    for arguments in (
        pack,
        ("verify", "--all", place),
        ("export", f"{place}/one", f"{tmp_path}/out"),
    ):
        done = userfault(*arguments)
        assert done.returncode == 0, done.stderr
    again = userfault(*pack)  # a name is taken once here, too
    assert again.returncode == 1
    assert "there is a snapshot 'one'" in again.stderr
    assert (tmp_path / "out").read_bytes() == image
    with lazy(f"{place}/one") as mapped:
        assert mapped[:] == image
    assert userfault("rm", f"{place}/one").returncode == 0
    assert userfault("gc", "--grace", "0", place).returncode == 0
    assert not list((fat / "store").glob("chunks/*/*"))


def test_of_several_writers_of_a_name_one_wins_without_hard_links(fat: Path) -> None:
    won, lost = claimed_at_once(
        lambda: open_objects(fat / "store"), lambda number: b"%d" % number * 1000
    )
    assert (len(won), len(lost)) == (1, 5)
    assert open_objects(fat / "store").get("snapshots/name") == b"%d" % won[0] * 1000
    assert not list((fat / "store" / "tmp").iterdir())


def limited(most: int, *arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """A command that may write files of `most` bytes at most (ulimit -f)."""
    code = "import os, resource, sys; most = int(sys.argv[1]); "
    code += "resource.setrlimit(resource.RLIMIT_FSIZE, (most, most)); "
    code += "os.execv(sys.argv[2], sys.argv[2:])"
    return subprocess.run(
        [sys.executable, "-c", code, str(most), *arguments],
        cwd=cwd,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.fixture
def image(tmp_path: Path) -> bytes:
    """Packed as store/one, and in the file `image`: nothing of it can be compressed."""
    found = random.Random(4).randbytes(1 << 20)
    (tmp_path / "image").write_bytes(found)
    packed(tmp_path / "store", "one", found)
    return found


@pytest.mark.usefixtures("image")
@pytest.mark.parametrize("most", [0, 4096, 100_000])
@pytest.mark.parametrize(
    "arguments", [("pack", "image", "new/one"), ("export", "store/one", "out")]
)
def test_a_limit_on_the_size_of_files_is_named(
    tmp_path: Path, most: int, arguments: tuple[str, ...]
) -> None:
    done = limited(most, *command(*arguments), cwd=tmp_path)
    assert (done.returncode, done.stdout) == (1, "")
    assert f"may write files of {most} bytes at most (`ulimit -f`)" in done.stderr
    assert "raise `ulimit -f`" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "out").exists()
    assert not list(tmp_path.glob("new/snapshots/*"))
    assert not list(tmp_path.glob("new/tmp/*"))


@pytest.mark.usefixtures("image")
def test_what_only_reads_works_under_a_limit(tmp_path: Path) -> None:
    for arguments in (("ls", "store"), ("info", "store/one"), ("verify", "--all", "store")):
        done = limited(0, *command(*arguments), cwd=tmp_path)
        assert done.returncode == 0, done.stderr


_LAZY = """
import sys, userfault
try:
    with userfault.lazy(sys.argv[1]) as memory:
        memory.complete()
        print("right" if memory[:] == open("image", "rb").read() else "wrong")
except userfault.UserfaultError as error:
    print(error)
"""


@pytest.mark.usefixtures("image")
@pytest.mark.parametrize("source", ["image", "store/one"])
@pytest.mark.parametrize("most", [0, 1000, 20_000, 1 << 20])
def test_memory_is_filled_under_a_limit_or_the_limit_is_named(
    tmp_path: Path, most: int, source: str
) -> None:
    done = limited(most, sys.executable, "-c", _LAZY, source, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "right" or (
        f"{most} bytes at most (`ulimit -f`)" in done.stdout and "raise `ulimit -f`" in done.stdout
    )


def test_a_file_that_no_file_system_holds_is_not_put_down_to_a_limit(tmp_path: Path) -> None:
    if resource.getrlimit(resource.RLIMIT_FSIZE)[0] != resource.RLIM_INFINITY:
        absent("this machine limits the size of files")
    path = tmp_path / "file"
    path.touch()
    with pytest.raises(OSError, match="File too large") as caught:
        os.truncate(path, (1 << 63) - 1)
    assert "the file system has none that large" in growing(caught.value).cause
