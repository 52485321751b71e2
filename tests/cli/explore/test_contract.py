"""`userfault contract`: a type from a file or a module, its breaches, and what is no type."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cli.commands import ROOT, userfault

_BAD = """
from msgspec.structs import replace
from userfault.model.files.folio import LOCKED
from userfault.model.memtypes import pagecache
from userfault.model.memtypes.shmem import SHMEM


def lookup(target, index):
    folio = pagecache.lookup(target, index)
    folio.flags &= ~LOCKED
    return folio


BAD = replace(SHMEM.with_uffd(get_folio_noalloc=lookup), name="bad")
"""


def test_the_example_keeps_it() -> None:
    done = userfault("contract", f"{ROOT / 'examples' / 'modelled_memory_type.py'}:DRIVER")
    assert done.returncode == 0, done.stderr
    assert "broken" not in done.stdout
    assert "clean  rule 10" in done.stdout


def test_a_breach_is_told_with_its_rule_and_its_steps(tmp_path: Path) -> None:
    file = tmp_path / "bad.py"
    file.write_text(_BAD)
    done = userfault("contract", f"{file}:BAD", columns=120)
    assert done.returncode == 1, done.stderr
    assert done.stdout.count("rule 2 is broken") == 1
    assert "it returned an unlocked folio" in done.stdout
    assert "in continuing, step by step:" in done.stdout
    header, *lines = map(
        json.loads, userfault("contract", "bad:BAD", "--json", cwd=tmp_path).stdout.splitlines()
    )
    assert header == {
        "schema": "userfault.contract/1",
        "type": "bad",
        "kernel": "next",
        "design": "ours",
    }
    assert {line["breach"]["rule"] for line in lines if line["breach"]} == {2}


def test_the_line_of_a_breach_shows_it_again() -> None:
    posted = ("contract", "userfault.model.memtypes.guest_memfd:GUEST_MEMFD")
    done = userfault(*posted, "--design", "posted", columns=120)
    assert done.returncode == 1, done.stderr
    for rule in (2, 4, 6, 7):
        assert f"rule {rule} is broken" in done.stdout
    assert "rule 8 is broken" not in done.stdout
    lines = [word for word in done.stdout.split() if word.startswith("explore2:")]
    again = userfault(*posted, "--replay", lines[0], columns=120)
    assert again.returncode == 1, again.stderr
    assert "see it again:" in again.stdout
    told = json.loads(userfault(*posted, "--replay", lines[-1], "--json").stdout)
    assert told["line"] == lines[-1]


def test_what_was_not_seen_is_said_and_ends_with_5() -> None:
    done = userfault(
        "contract", "userfault.model.memtypes.shmem:SHMEM", "--schedules", "3", columns=200
    )
    assert done.returncode == 5, done.stderr
    assert "open   rule 4, copying: 3 schedules" in done.stdout
    assert "not all schedules were seen of" in done.stdout


@pytest.mark.parametrize(
    "name",
    [
        "SHMEM",
        "userfault.model.memtypes.shmem:NONE",
        "userfault.model.memtypes.shmem:MemoryOps",
        "no.such.module:TYPE",
        "none.py:TYPE",
        "userfault.model.memtypes.others:SPECIAL",
    ],
)
def test_what_is_no_type_ends_with_2(name: str) -> None:
    assert userfault("contract", name).returncode == 2
