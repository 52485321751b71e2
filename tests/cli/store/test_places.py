"""Where a store is, and whether there is one: folders, URLs of folders, folders that are none."""

from __future__ import annotations

from pathlib import Path

import pytest

from cli.commands import userfault
from helpers.stores import memory
from helpers.stores import store as packed
from userfault import lazy
from userfault.kernel.errors import UsageError
from userfault.snapshot.errors import NoSuchStore
from userfault.snapshot.stores.opening import open_existing
from userfault.snapshot.stores.place import place_of
from userfault.snapshot.stores.urls import folder_of

ON_STORES = [("ls",), ("gc",), ("verify", "--all")]
ON_SNAPSHOTS = [("rm",), ("squash",), ("info",), ("verify",)]


def files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


@pytest.fixture(params=["empty", "full", "other-snapshots"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A folder that is no store."""
    found = tmp_path / "folder"
    found.mkdir()
    if request.param == "full":
        (found / "letter").write_text("Dear all")
        (found / "tmp").mkdir()
    elif request.param == "other-snapshots":
        (found / "snapshots").mkdir()
        (found / "snapshots" / "monday").write_text("a backup of somebody's")
    return found


@pytest.mark.parametrize("arguments", ON_STORES)
def test_a_folder_that_is_no_store_is_told_apart_from_an_empty_one(
    folder: Path, arguments: tuple[str, ...]
) -> None:
    before = files(folder)
    done = userfault(*arguments, f"file://{folder}")
    assert (done.returncode, done.stdout) == (1, "")
    assert f"there is no store in {folder}" in done.stderr
    assert "userfault pack" in done.stderr
    assert files(folder) == before


@pytest.mark.parametrize("arguments", ON_SNAPSHOTS)
def test_what_works_on_snapshots_makes_no_store(folder: Path, arguments: tuple[str, ...]) -> None:
    before = files(folder)
    done = userfault(*arguments, f"{folder}/one")
    assert (done.returncode, done.stdout) == (1, "")
    assert "there is no s" in done.stderr
    assert files(folder) == before


def test_an_empty_store_has_no_snapshots(tmp_path: Path) -> None:
    packed(tmp_path / "store", "one", memory(20))
    assert userfault("rm", f"{tmp_path}/store/one").returncode == 0
    for arguments in (("gc", "--grace", "0"), *ON_STORES):
        done = userfault(*arguments, f"{tmp_path}/store")
        assert done.returncode == 0, done.stderr
    assert "no snapshots" in userfault("ls", f"{tmp_path}/store").stdout


def test_a_store_that_was_copied_without_its_mark_is_one(tmp_path: Path) -> None:
    packed(tmp_path / "store", "one", memory(20))
    for path in (tmp_path / "store").iterdir():
        if path.is_file():
            path.unlink()
    assert open_existing(str(tmp_path / "store")).exists("snapshots/one")
    with pytest.raises(NoSuchStore):
        open_existing(str(tmp_path))


@pytest.mark.parametrize("folder_name", ["with space", "caf\u00e9 100%", "q?x#y"])
def test_a_folder_has_a_url_that_commands_and_lazy_take(tmp_path: Path, folder_name: str) -> None:
    image = memory(30)
    (tmp_path / "image").write_bytes(image)
    where = tmp_path / folder_name
    url = where.as_uri()
    local = url.replace("file://", "FILE://localhost")
    assert userfault("pack", str(tmp_path / "image"), f"{local}/one").returncode == 0
    assert (where / "snapshots" / "one").exists()
    for place in (url, local):
        with lazy(f"{place}/one") as mapped:
            assert mapped[:] == image
    done = userfault("verify", "--all", url)
    assert done.returncode == 0, done.stderr
    done = userfault("export", f"{url}/one", "out", "--second", local, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out").read_bytes() == image
    assert not [path for path in tmp_path.iterdir() if path.name.lower().startswith("file")]


@pytest.mark.parametrize(
    ("url", "path"),
    [
        ("file:///srv/a%20b", "/srv/a b"),
        ("file:///srv/a b", "/srv/a b"),
        ("file://localhost/srv", "/srv"),
        ("FILE://LocalHost/srv", "/srv"),
        ("file:///srv/%e2%82%ac", "/srv/€"),
        ("file:///srv/%ff", "/srv/\udcff"),
        ("file:///srv/100%", "/srv/100%"),
        ("file:///", "/"),
        ("/srv/a%20b", "/srv/a%20b"),
    ],
)
def test_a_url_names_a_folder(url: str, path: str) -> None:
    assert folder_of(url) == path


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("file://server/srv", r"names the host 'server'.*file:///server/srv"),
        ("file://srv", "names the host 'srv'"),
        ("file:///srv?x=y", "has a query.*%3F"),
        ("file:///srv#x", "has a fragment.*%23"),
        ("file:///srv/%00", "NUL"),
    ],
)
def test_a_url_that_names_no_folder_of_this_machine_is_refused(url: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        folder_of(url)


def test_a_url_of_another_machine_ends_a_command_with_2() -> None:
    done = userfault("ls", "file://server/srv")
    assert (done.returncode, done.stdout) == (2, "")
    assert "names the host 'server'" in " ".join(done.stderr.split())


def test_the_name_of_a_snapshot_may_be_escaped_in_a_url() -> None:
    assert place_of("file:///a%20b/web%2D1") == ("file:///a%20b", "web-1")
    with pytest.raises(UsageError, match="cannot be the name"):
        place_of("file:///srv/a%2Fb")
