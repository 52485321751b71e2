"""`userfault client --native`: our own client at our daemon's door, checked as the others are."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from cli.commands import userfault
from client.conftest import PAGES, posed
from serve.daemons import Running, serving


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("daemon")
    with serving(folder, "--native", str(folder / "native")) as running:
        yield running


def test_every_byte_is_the_sources(daemon: Running, image: Path) -> None:
    where = f"--native={daemon.folder}/native", f"--image={image}"
    code, found = posed(*where, "--threads=2", "--balloon=20", "--write=20", "--kernel=20")
    assert (code, found["verdict"]) == (0, "right"), found
    assert found["result"]["pages"] == PAGES + 1
    assert found["result"]["removed"]


def test_nobody_there_is_a_refusal(tmp_path: Path, image: Path) -> None:
    code, found = posed(f"--native={tmp_path}/s", f"--image={image}")
    assert (code, found["verdict"]) == (6, "refused")


def test_what_means_nothing_there_is_told(image: Path) -> None:
    ran = userfault("client", "--native=/s", f"--image={image}", "--hostile=silent")
    assert ran.returncode == 2
    assert "--hostile with --native" in ran.stderr
    assert userfault("client", f"--image={image}").returncode == 2
