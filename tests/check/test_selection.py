"""What `--only` selects."""

from __future__ import annotations

import pytest

from userfault.check.selection import narrow, select
from userfault.check.words.statement import Statement
from userfault.kernel.errors import UsageError


def planted(number: int, subject: str, *memories: str) -> Statement:
    return Statement(number, subject, "It is so.", (4, 3), "here", memories, {}, lambda _: None)


ALL = [
    planted(1, "handshake"),
    planted(2, "handshake"),
    planted(7, "copy", "anon", "shmem"),
    planted(9, "move", "anon"),
]


@pytest.mark.parametrize(
    ("words", "numbers", "memories"),
    [
        ((), [1, 2, 7, 9], None),
        (("2",), [2], None),
        (("1,9",), [1, 9], None),
        (("2-8",), [2, 7], None),
        (("copy", "1"), [1, 7], None),
        (("anon",), [7, 9], {"anon"}),
        (("copy, shmem",), [7], {"shmem"}),
    ],
)
def test_words_select(
    words: tuple[str, ...], numbers: list[int], memories: set[str] | None
) -> None:
    found = select(ALL, words)

    assert [statement.number for statement in found.statements] == numbers
    assert found.memories == memories


@pytest.mark.parametrize("word", ["3", "nonsense", "10-20", "-", "1-x", ""])
def test_a_word_that_names_nothing_is_an_error(word: str) -> None:
    with pytest.raises(UsageError, match="no statement is called"):
        select(ALL, (word,))


def test_a_selection_is_narrowed_to_memories() -> None:
    shared = frozenset({"shmem"})

    found = narrow(select(ALL, ()), shared)

    assert ([each.number for each in found.statements], found.memories) == ([7], shared)
    for words in (("move",), ("anon",), ("handshake",)):
        with pytest.raises(UsageError, match="about shmem"):
            narrow(select(ALL, words), shared)
