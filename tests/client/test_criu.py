"""`userfault client --criu`: a tree of tasks that fork, move and give back memory."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from cli.commands import environment, userfault
from client.conftest import HERE, posed
from client.lazy_pages import FLAWS
from serve.daemons import serving
from snapshot.dumps import LAZY, PRESENT, Dump, area, page

AT, PAGES, PAGE = 0x600000000000, 100, 4096
CONTENT = b"".join(map(page, range(PAGES)))
TASKS, ENDED = (7, 9), 11


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Two tasks, and one that had ended; a part of the memory is not lazy."""
    folder = tmp_path / "images"
    folder.mkdir()
    made = Dump(folder, [*TASKS, ENDED])
    for number, pid in enumerate(TASKS):
        made.memory(pid, area(AT, AT + 2 * PAGES * PAGE))
        cut = 60 * PAGE
        made.pages(
            str(pid),
            number + 1,
            (AT, CONTENT[:cut], LAZY | PRESENT),
            (AT + cut, CONTENT[cut:], PRESENT if number else LAZY | PRESENT),
        )
    return folder


def test_our_daemon_serves_every_byte(tmp_path: Path, images: Path) -> None:
    work = tmp_path / "work"
    work.mkdir()
    with serving(tmp_path / "daemon", "--criu", f"{work}={images}"):
        arguments = ["--threads=2", "--balloon=20", "--write=20", "--kernel=20"]
        code, found = posed(f"--criu={work}", f"--images={images}", *arguments)
    assert (code, found["verdict"]) == (0, "right"), found
    # Each task walks twice, and the child that it forks once.
    assert found["result"]["pages"] == 3 * len(TASKS) * (PAGES + 4)


FOUND = {
    "": (0, "right", ""),
    "zeros": (1, "wrong", "zeros where the image's bytes are due"),
    "forgets forks": (7, "hung", " at 0x"),
    "ignores remaps": (1, "wrong", "zeros where the image's bytes are due"),
    "ignores removes": (1, "wrong", "the image's bytes after the page was given back"),
    "closes": (6, "refused", ""),
}


@pytest.mark.parametrize("flaw", FOUND, ids=lambda flaw: flaw or "none")
def test_a_flaw_is_found(tmp_path: Path, images: Path, flaw: str) -> None:
    code, verdict, said = FOUND[flaw]
    (tmp_path / "content").write_bytes(CONTENT)
    tests = f"{environment()['PYTHONPATH']}:{HERE.parent}"
    arguments = [str(tmp_path / "lazy-pages.socket"), str(tmp_path / "content"), str(AT)]
    process = subprocess.Popen(
        [sys.executable, str(HERE / "lazy_pages.py"), *arguments, str(len(TASKS)), flaw],
        stdout=subprocess.PIPE,
        text=True,
        env=environment(PYTHONPATH=tests),
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        where = f"--criu={tmp_path}", f"--images={images}"
        found = posed(*where, "--balloon=20", f"--timeout={2 if 'hung' in verdict else 30}")
    finally:
        process.kill()
        process.communicate()
    assert (found[0], found[1]["verdict"]) == (code, verdict), found
    wrong = (found[1]["result"] or {"wrong": []})["wrong"]
    told = [found[1]["why"], *(each["what"] for each in wrong)]
    assert any(said in each for each in told), told


def test_every_flaw_is_tried() -> None:
    assert set(FOUND) == set(FLAWS)


def test_a_folder_without_images_is_told(tmp_path: Path) -> None:
    ran = userfault("client", f"--criu={tmp_path}")
    assert ran.returncode == 3
    assert "pstree.img" in ran.stderr
