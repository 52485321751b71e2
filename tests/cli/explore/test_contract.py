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
    assert header == {"schema": "userfault.contract/1", "type": "bad", "kernel": "next"}
    assert [line["breach"]["rule"] for line in lines if line["breach"]] == [2]


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
