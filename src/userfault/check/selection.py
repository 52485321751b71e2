"""Which statements, on which memories: the words that `--only` takes."""

from __future__ import annotations

import msgspec

from userfault.check.words.statement import Statement
from userfault.kernel.errors import UsageError


class Selection(msgspec.Struct, frozen=True):
    """Statements in the order of their numbers; `memories` is None for all."""

    statements: list[Statement]
    memories: frozenset[str] | None = None


def select(statements: list[Statement], words: tuple[str, ...]) -> Selection:
    """Those that the words name: numbers, ranges and subjects add up; memories narrow.

    Raises UsageError for a word that names none.
    """
    subjects = {found.subject for found in statements}
    known = {memory for found in statements for memory in found.memories}
    numbers: set[int] = set()
    memories: set[str] = set()
    for word in (part.strip() for argument in words for part in argument.split(",")):
        if word in known:
            memories.add(word)
            continue
        named = _numbers(statements, word)
        if not named:
            raise UsageError(
                f"no statement is called {word!r}",
                cause=f"subjects are {', '.join(sorted(subjects))};"
                f" memories {', '.join(sorted(known))}",
                cure="`userfault check --list` lists all",
            )
        numbers |= named
    kept = [found for found in statements if not numbers or found.number in numbers]
    if memories:
        kept = [found for found in kept if memories & set(found.memories)]
    return Selection(kept, frozenset(memories) or None)


def narrow(chosen: Selection, memories: frozenset[str]) -> Selection:
    """The cases of a selection that are about these memories.  Raises UsageError without any."""
    wanted = memories if chosen.memories is None else memories & chosen.memories
    kept = [found for found in chosen.statements if wanted & set(found.memories)]
    if not kept:
        raise UsageError(
            f"none of these statements is about {' or '.join(sorted(memories))}",
            cure="name others, or none",
        )
    return Selection(kept, wanted)


def _numbers(statements: list[Statement], word: str) -> set[int]:
    first, dash, last = word.partition("-")
    if first.isdecimal() and (last.isdecimal() if dash else True):
        wanted = range(int(first), int(last or first) + 1)
        return {found.number for found in statements if found.number in wanted}
    return {found.number for found in statements if found.subject == word}
