"""The files that commands write for the user: whole, in place of a name, and through no link."""

from __future__ import annotations

import os
import pwd
import stat
from collections import Counter
from pathlib import Path
from xml.etree import ElementTree

import pytest

from cli.commands import userfault
from helpers.stores import memory, store
from userfault.check.live.agent.build import NoAgent, agent_path
from userfault.cli.shared.checking.files import Header, JunitFile
from userfault.linux import homes
from userfault.snapshot.errors import StoreError
from userfault.snapshot.serving.reading import open_reader
from userfault.snapshot.stores.cache import open_cache
from userfault.snapshot.stores.newfile import NewFile, write_new


@pytest.mark.parametrize("umask", [0o000, 0o277])
def test_a_new_file_replaces_a_link_and_has_the_mode_that_was_meant(
    tmp_path: Path, umask: int
) -> None:
    victim = tmp_path / "victim"
    victim.write_bytes(b"somebody's")
    for name, mode in (("secret", 0o600), ("picture", 0o644)):
        (tmp_path / name).symlink_to(victim)
        before = os.umask(umask)
        try:
            write_new(tmp_path / name, b"new", mode)
        finally:
            os.umask(before)
        found = (tmp_path / name).lstat()
        assert stat.S_ISREG(found.st_mode)
        assert stat.S_IMODE(found.st_mode) == mode
    assert victim.read_bytes() == b"somebody's"
    assert sorted(os.listdir(tmp_path)) == ["picture", "secret", "victim"]


def test_what_had_the_name_is_there_until_the_new_file_is_whole(tmp_path: Path) -> None:
    place = tmp_path / "image"
    place.write_bytes(b"the one before")
    with NewFile(str(place)) as file:
        os.write(file.fd, b"half")
    assert place.read_bytes() == b"the one before"
    with pytest.raises(StoreError):
        write_new(tmp_path / "absent" / "x", b"")
    assert os.listdir(tmp_path) == ["image"]


def test_an_export_leaves_all_else_in_its_folder(tmp_path: Path) -> None:
    data = memory(20)
    place = store(tmp_path / "store", "a", data)
    folder = tmp_path / "out"
    folder.mkdir()
    others = {
        name: f"{name} of somebody".encode() for name in (".image.0123abcd", "image.part", "x")
    }
    for name, text in others.items():
        (folder / name).write_bytes(text)
    assert userfault("export", str(place), "image", cwd=folder).returncode == 0
    assert (folder / "image").read_bytes() == data
    for name, text in others.items():
        assert (folder / name).read_bytes() == text
    assert len(os.listdir(folder)) == len(others) + 1


def test_a_junit_file_takes_no_name_but_its_own(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_bytes(b"somebody's")
    (tmp_path / f"x.xml.{os.getpid()}").symlink_to(victim)
    (tmp_path / "x.xml").symlink_to(victim)
    JunitFile(tmp_path / "x.xml", Header("a kernel", 1)).end(Counter(), 0.0, complete=True)
    assert ElementTree.parse(tmp_path / "x.xml").getroot().tag == "testsuite"
    assert victim.read_bytes() == b"somebody's"


def test_without_a_home_nothing_is_made_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """HOME unset, and a user id that no passwd entry has: `docker run -u 12345`."""

    def no_entry(uid: int) -> None:
        raise KeyError(uid)

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(pwd, "getpwuid", no_entry)
    monkeypatch.delenv("USERFAULT_CACHE", raising=False)
    monkeypatch.delenv("HOME", raising=False)
    for told in (None, "", "relative"):
        if told is None:
            monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
        else:
            monkeypatch.setenv("XDG_CACHE_HOME", told)
            monkeypatch.setenv("HOME", told)
        assert homes.cache_home() is None
        assert open_cache() is None
        open_reader("http://127.0.0.1:9/store").close()
        with pytest.raises(NoAgent, match="set XDG_CACHE_HOME"):
            agent_path()
    assert os.listdir(tmp_path) == []
    monkeypatch.setenv("HOME", str(tmp_path))
    assert homes.cache_home() == f"{tmp_path}/.cache"
