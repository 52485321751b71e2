"""A handler that does one thing wrong is found out, and told of by what it did."""

from __future__ import annotations

from pathlib import Path

import pytest

from client.conftest import handler, posed
from client.handler import FLAW_AT, FLAWS

# What is posed, the exit code, the verdict, and what is said of it.
FOUND: dict[str, tuple[list[str], int, str, str]] = {
    "": (["--balloon=20", "--write=20", "--flood=5"], 0, "right", ""),
    "one byte": ([], 1, "wrong", "not the image's"),
    "zeros": ([], 1, "wrong", "zeros where the image's bytes are due"),
    "neighbour": ([], 1, "wrong", f"page {FLAW_AT + 1} of the image"),
    "ignores removes": (["--balloon=20"], 1, "wrong", "image's bytes after the page was given"),
    "writes over": (["--write=100"], 1, "wrong", "what was written there is gone"),
    "hangs": (["--timeout=1"], 7, "hung", "has been reading at 0x"),
    "talks": ([], 1, "wrong", "68656c6c6f"),
    "ends": ([], 6, "refused", "it was killed while thread 1 was reading at 0x"),
    "closes": (["--timeout=1"], 6, "refused", ""),
    "poisons": ([], 8, "poisoned", "SIGBUS while thread 1 was reading at 0x"),
}


def test_every_flaw_of_the_handler_is_tried() -> None:
    assert set(FOUND) == set(FLAWS)


@pytest.mark.parametrize("flaw", FOUND, ids=lambda flaw: flaw or "none")
def test_a_flaw_is_found(tmp_path: Path, image: Path, flaw: str) -> None:
    arguments, code, verdict, said = FOUND[flaw]
    with handler(tmp_path / "s", image, flaw):
        found = posed(f"--firecracker={tmp_path}/s", f"--image={image}", *arguments)
    assert (found[0], found[1]["verdict"]) == (code, verdict)
    result = found[1]["result"] or {"wrong": [], "answered": ""}
    told = [found[1]["why"], result["answered"], *(each["what"] for each in result["wrong"])]
    assert any(said in each for each in told), told


def test_nobody_there_is_a_refusal(tmp_path: Path, image: Path) -> None:
    code, found = posed(f"--firecracker={tmp_path}/s", f"--image={image}")
    assert (code, found["verdict"]) == (6, "refused")
    assert "No such file" in found["why"]


def test_an_honest_client_that_waits_for_ever_is_named_beside_a_hostile_one(
    tmp_path: Path, image: Path
) -> None:
    with handler(tmp_path / "s", image, "hangs"):
        code, found = posed(
            f"--firecracker={tmp_path}/s",
            f"--image={image}",
            "--hostile=dies-sent",
            "--wait=1",
            "--timeout=1",
            "--pattern=sequential",
        )
    assert code == 7
    assert [each["after"]["verdict"] for each in found["hostile"]] == ["hung"]
