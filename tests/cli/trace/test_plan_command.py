"""`userfault plan`: what policies would have made of a recorded trace; no trace harms it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import zstandard

from cli.commands import userfault
from userfault.pager.core import trace
from userfault.pager.core.trace import Header


def touched(pages: list[int], window: int = 1) -> bytes:
    """A touch trace: each page faults 10 µs after the one before was filled."""
    data = trace.begin(Header(page_size=4096, pages=1000, begun_ns=1, window_pages=window))
    now = 1
    for page in pages:
        data += trace.packed(now + 10_000, trace.FAULT, 0, page, 0)
        data += trace.packed(now + 15_000, trace.FILLED, trace.DEMAND, page, 1)
        now += 15_000
    return data


@pytest.fixture
def path(tmp_path: Path) -> Path:
    made = tmp_path / "a.trace"
    made.write_bytes(touched(list(range(500))))
    return made


def test_policies_are_compared_in_a_table(path: Path) -> None:
    done = userfault("plan", str(path))
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert "500 of 1000 pages of 4 KiB touched" in lines[0]
    assert [line.split()[0] for line in lines[1:]] == [
        "policy",
        *("page", "order", "block", "cost", "cost+background"),
    ]
    assert "500" in lines[2].split()[1]


def test_json_has_what_the_table_has(path: Path) -> None:
    words = ("--policy", "page", "--policy", "block", "--fault-us", "30", "--page-us", "1")
    done = userfault("plan", "--json", *words, str(path), str(path))
    assert done.returncode == 0, done.stderr
    first, second = map(json.loads, done.stdout.splitlines())
    assert first == second
    assert first["schema"] == "userfault.plan/1"
    assert first["policies"].keys() == {"page", "block"}
    page, block = first["policies"]["page"], first["policies"]["block"]
    assert (page["faults"], page["for_nothing"]) == (500, 0)
    assert page["waited_s"] == pytest.approx(500 * 33e-6)
    assert (block["faults"], block["for_nothing"]) == (8, 12)


def test_a_trace_packed_with_zstd_says_the_same(path: Path, tmp_path: Path) -> None:
    packed = tmp_path / "packed"
    packed.write_bytes(zstandard.compress(path.read_bytes()))
    words = ("plan", "--policy", "cost")
    plain = userfault(*words, str(path)).stdout.splitlines()[1:]
    assert userfault(*words, str(packed)).stdout.splitlines()[1:] == plain


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "is no trace"),
        (b"hello", "is no trace"),
        (b"\x28\xb5\x2f\xfd" + b"rubbish", "cannot be unpacked"),
        (zstandard.compress(bytes(1 << 28)), "is no trace"),
        (touched([1000]), "record 0 is about page 1000"),
    ],
    ids=["empty", "text", "not zstd", "a bomb", "pages outside"],
)
def test_what_is_no_trace_is_told_so(tmp_path: Path, data: bytes, says: str) -> None:
    (tmp_path / "x").write_bytes(data)
    done = userfault("plan", str(tmp_path / "x"))
    assert done.returncode == 1
    assert says in done.stderr
    assert "cure:" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_trace_of_another_policy_cannot_be_replayed(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(touched([1], window=64))
    done = userfault("plan", str(tmp_path / "x"))
    assert done.returncode == 2
    assert "does not tell every touch" in done.stderr


def test_no_file_is_told_so(tmp_path: Path) -> None:
    done = userfault("plan", str(tmp_path / "none"))
    assert done.returncode == 1
    assert "No such file" in done.stderr
