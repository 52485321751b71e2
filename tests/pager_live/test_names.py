"""A name is any bytes but / and NUL on Linux: each is served, and told in printable text."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

import userfault
from helpers import child
from helpers.pages import PAGE, numbers, pages
from helpers.skips import need_features
from helpers.stores import store
from pager_live import functions
from userfault import Policy, SourceError, lazy
from userfault.kernel.modes import Feature

NAMES = [b"caf\xe9", b"new\nline", b"esc\x1b[31m", "n\u00e4me \u4e2d".encode(), b"-dash"]
DEMAND = Policy(background=False, retries=0)


def below(folder: Path, name: bytes) -> Path:
    """A path with these bytes as its last part."""
    return folder / os.fsdecode(name)


@pytest.mark.parametrize("name", NAMES, ids=ascii)
def test_a_file_of_any_name_is_served(tmp_path: Path, name: bytes) -> None:
    path = below(tmp_path, name)
    path.write_bytes(pages(1, 3))
    with path.open("rb") as file, open(os.fsencode(path), "rb") as by_bytes:
        for source in (path, str(path), file, by_bytes):
            with lazy(source) as mapped:
                assert numbers(mapped[:]) == [1, 2, 3]


@pytest.mark.parametrize("name", NAMES, ids=ascii)
def test_its_failure_is_told_with_its_name(
    tmp_path: Path, name: bytes, capfd: pytest.CaptureFixture[str]
) -> None:
    need_features(Feature.POISON)
    path = below(tmp_path, name)
    path.write_bytes(pages(1, 64))
    with lazy(path, policy=DEMAND) as mapped:
        os.truncate(path, PAGE)
        with pytest.raises(SourceError, match="changed size") as caught:
            mapped.complete()
    assert f"{tmp_path}/{name[:1].decode()}" in caught.value.cause
    assert caught.value.cause.isprintable()
    told = capfd.readouterr().err
    assert "changed size" in told
    assert "Traceback" not in told


@pytest.mark.parametrize("name", NAMES, ids=ascii)
def test_a_snapshot_in_a_store_of_any_name_is_served(tmp_path: Path, name: bytes) -> None:
    folder, second = below(tmp_path, name), below(tmp_path, name + b"2")
    store(tmp_path / "plain", "image", pages(1, 64)).parent.rename(folder)
    second.symlink_to(folder)
    with lazy(
        folder / "image", store2=str(second), cache=str(below(tmp_path, name + b"3"))
    ) as mapped:
        assert numbers(mapped[:]) == list(range(1, 65))


@pytest.mark.parametrize("name", NAMES, ids=ascii)
def test_a_function_in_a_folder_of_any_name_is_called(tmp_path: Path, name: bytes) -> None:
    folder = below(tmp_path, name)
    folder.mkdir()
    (folder / "oddly_placed.py").write_text("def read(offset, length): return b'x' * length\n")
    assert child.run("pager_live.test_names:_reads_from", str(folder)) == "xxx"


def _reads_from(folder: str) -> str:
    """In a process of its own, whose module path it changes."""
    sys.path.insert(0, folder)
    with lazy("oddly_placed:read", length=PAGE) as mapped:
        return bytes(mapped[:3]).decode()


def test_a_function_may_fail_with_such_a_name(capfd: pytest.CaptureFixture[str]) -> None:
    need_features(Feature.POISON)
    source = userfault.function(functions.no_such_file, PAGE)
    with (
        lazy(source, policy=DEMAND) as mapped,
        pytest.raises(SourceError, match=r"nothing at caf.*e9\.mem"),
    ):
        mapped.complete()
    assert "Traceback" not in capfd.readouterr().err
