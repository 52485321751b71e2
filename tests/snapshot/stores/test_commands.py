"""Every command works on an S3 service by its URL, and tells no credential."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from cli.commands import userfault
from helpers.stores import memory
from snapshot.servers.nginx import Web
from snapshot.servers.s3 import S3
from userfault.snapshot.stores.opening import open_objects

pytestmark = pytest.mark.xdist_group("stores")

PAGE = 4096


@pytest.mark.usefixtures("no_credentials")
def test_a_round_of_all_commands(s3: S3, prefix: str, tmp_path: Path) -> None:
    place = f"s3://{s3.bucket}/{prefix}"
    first, second = bytearray(memory(300)), bytearray(memory(300))
    second[PAGE : 2 * PAGE] = os.urandom(PAGE)
    (tmp_path / "first").write_bytes(first)
    (tmp_path / "second").write_bytes(second)
    said = []

    def run(*arguments: str, code: int = 0) -> str:
        done = userfault(*arguments, cwd=tmp_path)
        assert done.returncode == code, done.stderr
        said.append(done.stdout + done.stderr)
        return done.stdout

    run("pack", "first", f"{place}/one")
    run("pack", "second", f"{place}/two", "--base", "one")
    names = [each["name"] for each in json.loads(run("ls", place, "--json"))["snapshots"]]
    assert names == ["one", "two"]
    assert json.loads(run("info", f"{place}/two", "--json"))["layers"] == ["two", "one"]
    assert json.loads(run("diff", f"{place}/one", "two", "--json", code=4))["runs"] == [
        {"start": PAGE, "pages": 1, "change": "changed"}
    ]
    run("export", f"{place}/two", "out", "--cache", "")
    assert (tmp_path / "out").read_bytes() == second
    run("squash", f"{place}/two")
    run("rm", f"{place}/one")
    run("gc", place, "--grace", "0", "--wait", "5")
    run("verify", "--all", place)
    run("export", f"{place}/two", "out", "--cache", str(tmp_path / "cache"))
    assert (tmp_path / "out").read_bytes() == second
    assert any((tmp_path / "cache").rglob("*"))
    run("info", f"{place}/absent", code=1)
    for value in s3.environment().values():
        if len(value) > 6 and not value.startswith("http"):
            assert value not in "".join(said)


@pytest.mark.usefixtures("no_credentials")
@pytest.mark.parametrize("arguments", [("ls",), ("gc",), ("verify", "--all")])
def test_a_prefix_without_anything_is_no_store(
    seaweed_s3: S3, prefix: str, arguments: tuple[str, ...]
) -> None:
    place = f"s3://{seaweed_s3.bucket}/{prefix}"
    done = userfault(*arguments, place)
    assert (done.returncode, done.stdout) == (1, "")
    assert f"there is no store in {place}" in done.stderr
    assert not list(open_objects(place).list())  # and none was made by the question


@pytest.mark.usefixtures("no_credentials")
def test_snapshots_are_read_over_http(web: Web, prefix: str, tmp_path: Path) -> None:
    data = memory(100)
    (tmp_path / "image").write_bytes(data)
    assert userfault("pack", str(tmp_path / "image"), f"{web.root}/{prefix}/one").returncode == 0
    done = userfault("export", f"{web.url(prefix)}/one", "out", "--cache", "", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out").read_bytes() == data
    refused = userfault("pack", str(tmp_path / "image"), f"{web.url(prefix)}/two")
    assert refused.returncode in (1, 2, 3)
    assert "Traceback" not in refused.stderr
