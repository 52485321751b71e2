"""The prompt's language: what may be left out, what a line that is wrong is told."""

from __future__ import annotations

import random

import pytest

from userfault.check.differential.draw import program
from userfault.check.differential.program import from_text, to_text
from userfault.check.prompt.completing import candidates
from userfault.check.prompt.language import Mistake, read


@pytest.mark.parametrize("rwp", [False, True])
def test_every_random_program_is_read_as_it_is(rwp: bool) -> None:
    draw = random.Random(7)
    for _ in range(150):
        drawn = program(draw.randrange, rwp=rwp)
        found = [step for command in read(to_text(drawn)) for step in command.steps]
        assert tuple(found) == drawn


@pytest.mark.parametrize(
    ("line", "means"),
    [
        ("register anon missing", "0 register u0 anon+0 8p 1"),
        ("register anon+2 missing|wp", "0 register u0 anon+2 1p 3"),
        ("1 register u1 shm+0 2p minor wp  # both", "1 register u1 shm+0 2p 6"),
        ("register anon 1", "0 register u0 anon+0 8p 1"),
        ("munmap anon+1 4096", "0 munmap anon+1 4096"),
        ("open u1 event_fork thread_id", "0 uffd u1; 0 api u1 0x102"),
        ("touch shm", "0 load shm+0"),
        ("read u0", "0 events u0 16"),
        ("read shm+3", "0 load shm+3"),
        ("c1.2 write shm+3", "c1.2 store shm+3"),
        ("copy shm+3", "0 copy u0 shm+3 src+3 1p 0"),
        ("copy u0 shm src+0 2p wp", "0 copy u0 shm+0 src+0 2p 2"),
        ("move anon+1 dst+0 allow_src_holes", "0 move u0 anon+1 dst+0 1p 2"),
        ("wp anon+1", "0 writeprotect u0 anon+1 1p 1"),
        ("wp anon+1 dontwake", "0 writeprotect u0 anon+1 1p 3"),
        ("unwp anon", "0 writeprotect u0 anon+0 8p 0"),
        ("madvise anon dontneed", "0 madvise anon+0 8p 4"),
        ("mprotect anon+1 2p r", "0 mprotect anon+1 2p 1"),
        ("remap anon+1 2p dst+3", "0 mremap anon+1 2p 2p 3 dst+3"),
        ("punch shm+2", "0 punch m 2p 1p"),
        ("truncate gmem 2p", "0 truncate g 2p"),
        ("map anon; ; fork", "0 map anon; 0 fork"),
        ("  # nothing", ""),
    ],
)
def test_what_is_left_out_is_what_a_program_says_in_full(line: str, means: str) -> None:
    found = [step for command in read(line) for step in command.steps]
    assert tuple(found) == from_text(means)


@pytest.mark.parametrize(
    ("line", "column", "cure"),
    [
        ("regster anon missing", 1, "did you mean 'register'?"),
        ("1 regster anon", 3, "did you mean 'register'?"),
        ("map anon; tuoch anon", 11, "did you mean 'touch'?"),
        ("register anno missing", 10, "did you mean 'anon'?"),
        ("register anon minor|mising", 21, "did you mean 'missing'?"),
        ("register anon", 14, "add missing, wp, minor, rwp"),
        ("open event_frok", 6, "did you mean 'event_fork'?"),
        ("touch", 6, "write it as: touch ADDRESS"),
        ("touch anon anon", 12, "write it as: touch ADDRESS"),
        ("touch anon+x", 7, None),
        ("punch anon+2", 7, "use an area of a file, as shm, huge or gmem"),
        ("copy huge+0", 12, "add a source of huge pages: "),
        ("guest raed gmem", 7, "did you mean 'read'?"),
        ("1", 2, "add a verb"),
    ],
)
def test_a_mistake_names_its_column_and_what_was_meant(
    line: str, column: int, cure: str | None
) -> None:
    with pytest.raises(Mistake) as caught:
        read(line)
    assert caught.value.column == column
    if cure is not None:
        assert caught.value.cure.startswith(cure)


def test_a_word_can_become_a_verb_an_area_a_descriptor_or_a_flag() -> None:
    def after(before: str) -> list[str]:
        return candidates(before, ["quit"], ["u0", "m"])

    assert {"register", "quit"} <= set(after(""))
    assert "quit" not in after("1 ")
    assert {"anon", "u0", "missing"} <= set(after("register "))
    assert set(after("register anon ")) == {"missing", "wp", "minor", "rwp"}
    assert {"dontneed", "populate_write"} <= set(after("map anon; madvise anon "))
    assert {"kvm", "gmem"} <= set(after("guest "))
    assert after("nothing ") == []
